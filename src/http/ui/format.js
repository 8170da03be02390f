// How things are written for people: sizes, spans of time, instants, tables. Nothing here looks at the clock or the page.

const UNITS = ['B', 'kB', 'MB', 'GB', 'TB', 'PB'];

/** A size in bytes, to three digits. */
export function size(/** @type {number | null | undefined} */ bytes) {
  if (bytes === null || bytes === undefined) return '–';
  let value = bytes;
  let unit = 0;
  while (value >= 999.5 && unit < UNITS.length - 1) {
    value /= 1000;
    unit += 1;
  }
  const text = unit === 0 ? String(value) : value.toPrecision(3);
  return `${text} ${UNITS[unit]}`;
}

/** A count, with the viewer's separators. */
export function count(/** @type {number | null | undefined} */ n) {
  return n === null || n === undefined ? '–' : n.toLocaleString();
}

/** `n thing` or `n things`. */
export function many(/** @type {number} */ n, /** @type {string} */ thing, things = `${thing}s`) {
  return `${count(n)} ${n === 1 ? thing : things}`;
}

/** A span of time in its two largest units, as one says it: `2 min 5 s`. */
export function span(/** @type {number} */ ms) {
  const s = Math.max(0, ms) / 1000;
  if (s < 0.9995) return `${Math.round(s * 1000)} ms`;
  if (s < 9.95) return `${s.toFixed(1)} s`;
  if (s < 59.5) return `${Math.round(s)} s`;
  const whole = Math.round(s);
  const two = (/** @type {number} */ big, /** @type {string} */ a, /** @type {number} */ small, /** @type {string} */ b) =>
    small > 0 ? `${big} ${a} ${small} ${b}` : `${big} ${a}`;
  if (whole < 3600) return two(Math.floor(whole / 60), 'min', whole % 60, 's');
  if (whole < 86400) return two(Math.floor(whole / 3600), 'h', Math.floor((whole % 3600) / 60), 'min');
  return two(Math.floor(whole / 86400), 'd', Math.floor((whole % 86400) / 3600), 'h');
}

/** An instant as seen from another: `3 min ago`, `in 2 h`. In one unit: it ticks. */
export function relative(/** @type {number} */ at, /** @type {number} */ now) {
  const away = Math.abs(at - now) / 1000;
  const [n, unit] = away < 60 ? [away, 's'] : away < 3600 ? [away / 60, 'min'] : away < 172800 ? [away / 3600, 'h'] : [away / 86400, 'd'];
  if (away < 1) return 'now';
  return at > now ? `in ${Math.ceil(n)} ${unit}` : `${Math.floor(n)} ${unit} ago`;
}

const local = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeStyle: 'medium' });
const short = new Intl.DateTimeFormat(undefined, { weekday: 'short', hour: '2-digit', minute: '2-digit' });

/** An instant in the viewer's zone. */
export function instant(/** @type {string | number} */ at) {
  return local.format(new Date(at));
}

const hours = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit' });

/** The time of the day, in the viewer's zone. */
export function clock(/** @type {number} */ at) {
  return hours.format(at);
}

/** An instant of the days around now, in the viewer's zone. */
export function soon(/** @type {string | number} */ at) {
  return short.format(new Date(at));
}

/** An instant in a zone by name; without one that the browser knows, in UTC. */
export function inZone(/** @type {string} */ at, /** @type {string} */ zone) {
  try {
    return new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeStyle: 'short', timeZone: zone }).format(new Date(at));
  } catch {
    return new Date(at).toISOString();
  }
}

/** The rows of a table in CSV or TSV (RFC 4180), at most so many. */
export function rows(/** @type {string} */ text, separator = ',', most = 101) {
  const table = [];
  let row = [];
  let cell = '';
  let quoted = false;
  const ended = () => {
    row.push(cell);
    cell = '';
  };
  for (let i = 0; i < text.length && table.length < most; i += 1) {
    const c = text[i];
    if (quoted) {
      if (c !== '"') cell += c;
      else if (text[i + 1] === '"') {
        cell += '"';
        i += 1;
      } else quoted = false;
    } else if (c === '"' && cell === '') quoted = true;
    else if (c === separator) ended();
    else if (c === '\n') {
      ended();
      table.push(row);
      row = [];
    } else if (c !== '\r') cell += c;
  }
  if ((cell !== '' || row.length > 0) && table.length < most) {
    ended();
    table.push(row);
  }
  return table;
}

/** What a moment in the past is asked for as: `24h`, `7d`, or an instant. Nothing for what is neither. */
export function sinceInstant(/** @type {string | null} */ text, /** @type {number} */ now) {
  if (!text) return undefined;
  const [, n, unit] = /^(\d+)(m|h|d)$/.exec(text) ?? [];
  if (n) return new Date(now - Number(n) * { m: 60e3, h: 3600e3, d: 86400e3 }[/** @type {'m'|'h'|'d'} */ (unit)]).toISOString();
  const at = Date.parse(text);
  return Number.isNaN(at) ? undefined : new Date(at).toISOString();
}

/** The phases of a job, in the order of its way, in words. */
export const PHASES = /** @type {Record<string, string>} */ ({
  queued: 'queued',
  uploaded: 'uploaded',
  submitted: 'submitted',
  running: 'running',
  cancelling: 'cancelling',
  scored: 'scored',
  delivered: 'delivered',
  succeeded: 'succeeded',
  failed: 'failed',
  cancelled: 'cancelled',
  skipped: 'skipped',
});

/** Those in which a job has ended. */
export const FINAL = new Set(['succeeded', 'failed', 'cancelled', 'skipped']);
/** Those in which it has not. */
export const ACTIVE = Object.keys(PHASES).filter((phase) => !FINAL.has(phase));

/** The point of what a service said: the message in its JSON, else the end, where it has the point. */
export function gist(/** @type {string} */ said) {
  const message = said.match(/"message"\s*:\s*"((?:[^"\\]|\\.)+)"/i)?.[1];
  if (message) return message.replace(/\\(["\\/])/g, '$1');
  return said.length > 200 ? `…${said.slice(-200)}` : said;
}

/** Numbers of an answer beyond what a double holds stay as they are written: they become text. */
export function parseJson(/** @type {string} */ text) {
  // Outside of strings only: a match that begins with a quote is a string and stays.
  const safe = text.replace(/"(?:[^"\\]|\\.)*"|-?\d{16,}(?![\d.eE])/g, (found) =>
    found[0] === '"' || Number.isSafeInteger(Number(found)) ? found : `"${found}"`);
  return JSON.parse(safe);
}
