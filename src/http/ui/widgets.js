// What several pages are made of.

import { Failure, mayNot } from './api.js';
import { instant, inZone, relative, rows as tableRows, size } from './format.js';
import { announce, now } from './live.js';
import { arrivals, focusWanted } from './router.js';
import { Component, html, useEffect, useRef, useState } from './vendor.js';

/** A page: its title, which the window has too and where the focus goes when one comes to it. */
export function Page({ title, window: shown = title, aside = null, children }) {
  const heading = useRef(/** @type {HTMLElement | null} */ (null));
  useEffect(() => {
    document.title = `${shown} · scoreline`;
  }, [shown]);
  useEffect(() => {
    // Who types already is not interrupted.
    const typing = focusWanted() || document.activeElement?.matches('input, textarea, select');
    if (!typing && arrivals.value > 0) heading.current?.focus();
  }, [arrivals.value]);
  return html`
    <div class="title"><h1 tabindex="-1" ref=${heading}>${title}</h1>${aside}</div>
    ${children}`;
}

/** A part of a page under its heading. */
export function Section({ title, aside = null, kind = '', children }) {
  return html`
    <section class=${`panel ${kind}`}>
      <div class="panel-head"><h2>${title}</h2>${aside}</div>
      ${children}
    </section>`;
}

/** What went wrong, where it did, and a way to try again. */
export function Trouble({ error, again = null, what = '' }) {
  if (!error) return null;
  const text = error instanceof Failure ? error.message : `This page could not go on: ${error.message ?? error}`;
  return html`
    <div class="trouble" role="alert">
      <span>${what && html`<b>${what}</b>${' '}`}${text}</span>
      ${again && html`<button type="button" onClick=${again}>Try again</button>`}
    </div>`;
}

/** Something that is still to come: what failed to come says so. */
export function Pending({ of, what = 'This' }) {
  if (of.error) return html`<${Trouble} error=${of.error} again=${of.again} what=${`${what} could not be loaded.`} />`;
  return html`<p class="quiet pending">Loading…</p>`;
}

/** Keeps the rest of the app going when a page has a mistake. */
export class Guard extends Component {
  constructor() {
    super();
    this.state = { error: null };
  }
  static getDerivedStateFromError(/** @type {unknown} */ error) {
    return { error };
  }
  render() {
    const { error } = /** @type {any} */ (this.state);
    if (!error) return /** @type {any} */ (this.props).children;
    console.error(error);
    return html`<${Trouble} error=${error} again=${() => this.setState({ error: null })} />`;
  }
}

/** An instant, as long ago as it is; the exact one is in its title, and copied by a click. */
export function Time({ at, zone = null, exact = false }) {
  if (!at) return html`<span class="quiet">–</span>`;
  const utc = new Date(at).toISOString();
  const told = zone ? inZone(at, zone) : exact ? instant(at) : relative(Date.parse(at), now.value);
  return html`<time datetime=${utc} title=${`${instant(at)}\n${utc} (UTC)\nClick to copy`}>${told}</time>`;
}

document.addEventListener('click', (event) => {
  const time = event.target instanceof Element ? event.target.closest('time') : null;
  if (time && !time.closest('a, button')) copy(time.dateTime);
});

/** Copies, and says so. */
export async function copy(/** @type {string} */ text) {
  try {
    await navigator.clipboard.writeText(text);
    announce(`Copied ${text}`);
    return true;
  } catch {
    announce(`This browser does not let the page copy: it is ${text}`);
    return false;
  }
}

/** A text that is copied by the button beside it. */
export function Copied({ text, label }) {
  const [done, setDone] = useState(false);
  const click = async () => setDone(await copy(text));
  useEffect(() => {
    if (!done) return undefined;
    const timer = setTimeout(() => setDone(false), 1500);
    return () => clearTimeout(timer);
  }, [done]);
  return html`<span class="copied"><code>${text}</code>
    <button type="button" class="small" aria-label=${`Copy ${label}`} title=${`Copy ${label}`} onClick=${click}>${done ? 'copied' : 'copy'}</button></span>`;
}

/** A phase, or another state, in its colour. */
export function Badge({ state, kind = state, title = undefined }) {
  return html`<span class=${`badge is-${kind}`} title=${title}>${state}</span>`;
}

/** Where a job is: its phase, and whether it waits for a person. */
export function Phase({ job }) {
  return html`<span class="phases"><${Badge} state=${job.phase} />${job.held && html`${' '}<${Badge} state="held" title=${job.held.message} />`}</span>`;
}

/** How well an endpoint or a storage is. */
export function Health({ side }) {
  const words = { open: 'well', paused: 'paused', outage: 'outage', suspended: 'suspended' };
  return html`<${Badge} state=${words[/** @type {'open'} */ (side.state)] ?? side.state} kind=${`health-${side.state}`} />`;
}

/** How much is used of what there is. */
export function Meter({ value, max, label }) {
  const share = max > 0 ? Math.min(1, value / max) : 0;
  return html`<span class="meter" role="img" aria-label=${label} title=${label}><span style=${{ width: `${share * 100}%` }}></span></span>`;
}

/**
 * A button that does something: it is busy meanwhile, and says what went wrong right there. Whoever may only look can't
 * press it, and is told why.
 */
export function Act({ run, children, kind = '', label = undefined, done = null, why = null }) {
  const [state, setState] = useState(/** @type {any} */ ({ busy: false, error: null, done: false }));
  const reason = mayNot() ?? why;
  const click = async () => {
    if (reason || state.busy) return;
    setState({ busy: true, error: null, done: false });
    try {
      await run();
      setState({ busy: false, error: null, done: true });
      if (done) announce(done);
    } catch (error) {
      setState({ busy: false, error, done: false });
    }
  };
  return html`<span class="act">
    <button type="button" class=${kind} aria-label=${label} aria-disabled=${Boolean(reason)} aria-busy=${state.busy}
      title=${reason ?? undefined} onClick=${click}>${children}</button>
    ${state.done && done && html`<span class="quiet" role="status">${done}</span>`}
    ${state.error && html`<${Trouble} error=${state.error} />`}
  </span>`;
}

/** A question that covers the page until it is answered; Escape and its cross say no. */
export function Dialog({ title, close, children }) {
  const at = useRef(/** @type {HTMLDialogElement | null} */ (null));
  useEffect(() => {
    const dialog = at.current;
    dialog?.showModal();
    return () => dialog?.close();
  }, []);
  return html`<dialog ref=${at} aria-labelledby="dialog-title" onClose=${close} onCancel=${close}>
    <div class="panel-head"><h2 id="dialog-title">${title}</h2>
      <button type="button" class="small" aria-label="Close" onClick=${close}>✕</button></div>
    ${children}
  </dialog>`;
}

/** Words beside their values. */
export function Facts({ of }) {
  const shown = of.filter((/** @type {any} */ fact) => fact && fact[1] !== null && fact[1] !== undefined && fact[1] !== false);
  return html`<dl class="facts">${shown.map((/** @type {any} */ [name, value]) => html`<div key=${name}><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>`;
}

/** A table as a file holds it, scrolling in itself; what is no table is shown as text. */
export function Sheet({ name, text, truncated = false, label }) {
  const separator = /\.tsv$/i.test(name) ? '\t' : /\.csv$/i.test(name) ? ',' : null;
  const table = separator ? tableRows(text, separator) : [];
  // The last line of what was cut is perhaps no whole one.
  if (truncated && table.length > 1 && table.length < 101) table.pop();
  if (table.length === 0) return html`<pre class="text" tabindex="0" role="region" aria-label=${label}>${text || '(nothing)'}</pre>`;
  const [head, ...body] = table;
  const shown = body.slice(0, 99);
  const columns = head.slice(0, 60);
  return html`<div class="scroll" tabindex="0" role="region" aria-label=${label}><table class="sheet">
    <thead><tr>${columns.map((cell, n) => html`<th key=${n} scope="col">${cell}</th>`)}</tr></thead>
    <tbody>${shown.map((row, n) => html`<tr key=${n}>${columns.map((_, at) => html`<td key=${at}>${row[at] ?? ''}</td>`)}</tr>`)}</tbody>
  </table></div>
  <p class="quiet">${truncated || body.length > shown.length ? `The first ${shown.length} rows` : shown.length === 1 ? '1 row' : `All ${shown.length} rows`}${head.length > columns.length ? `, ${columns.length} of ${head.length} columns` : ''}</p>`;
}

/** A file that is looked into on demand, and can be had. */
export function File({ title, path, name, bytes, where = null, sha256 = null, open = false, load }) {
  const [state, setState] = useState(/** @type {any} */ ({ shown: false, value: null, error: null }));
  const look = async () => {
    setState({ shown: true, value: null, error: null });
    try {
      setState({ shown: true, value: await load(), error: null });
    } catch (error) {
      setState({ shown: true, value: null, error });
    }
  };
  useEffect(() => {
    if (open) look();
  }, [path]);
  const { shown, value, error } = state;
  return html`<div class="file">
    <div class="file-head">
      <span class="file-name"><span class="quiet">${title}</span> <b>${name}</b> <span class="quiet nowrap">${size(bytes)}</span></span>
      <span class="buttons">
        <button type="button" aria-expanded=${shown} aria-label=${`Preview ${name}`} onClick=${() => (shown ? setState({ shown: false, value: null, error: null }) : look())}>${shown ? 'Hide' : 'Preview'}</button>
        <a class="button" href=${path} download aria-label=${`Download ${name}`}>Download</a>
      </span>
    </div>
    ${where && html`<div class="quiet path">${where}</div>`}
    ${sha256 && html`<div class="quiet path">sha256 ${sha256}</div>`}
    ${error && html`<${Trouble} error=${error} again=${look} />`}
    ${shown && !value && !error && html`<p class="quiet">Loading…</p>`}
    ${value?.binary && html`<p class="quiet">This is no text: download it to look at it.</p>`}
    ${value && !value.binary && html`<${Sheet} name=${value.name || name} text=${value.text} truncated=${value.truncated} label=${`Preview of ${name}`} />`}
  </div>`;
}

/** What the remote said. */
export function Remote({ error }) {
  if (!error) return null;
  const classes = /** @type {Record<string, string>} */ ({
    transient: 'may pass: it is tried again',
    throttled: 'the other side asked for a pause',
    permanent: 'this job can’t succeed as it is',
    fatal: 'nothing can succeed until somebody mends it',
  });
  return html`<div class="remote">
    <p><code>${error.code}</code> <${Badge} state=${error.class} kind=${`class-${error.class}`} /> <span class="quiet">${classes[error.class]}</span></p>
    <blockquote>${error.message}</blockquote>
  </div>`;
}

/** "5 new": they come when asked for. */
export function News({ steady }) {
  return html`<div class="news">${steady.news > 0 && html`<button type="button" class="primary small" onClick=${steady.take}>${steady.news} new</button>`}</div>`;
}
