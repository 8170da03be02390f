// What happens, as it happens: one stream of server-sent events for the whole page, and what is made of it.
//
// Nothing moves while somebody looks closely. A page that is paused gets nothing; a list that the pointer is over, or that
// has the focus, changes its rows in place and says how many new ones there are (`useSteady`).

import { get, session, skew, whoami } from './api.js';
import { batch, effect, signal, useEffect, useRef, useState } from './vendor.js';

/** `connecting`, `live` or `reconnecting`. */
export const connection = signal('connecting');
/** Whether the viewer stopped the page. */
export const paused = signal(false);
/** The time, by the daemon's clock, once a second. */
export const now = signal(Date.now());
/** Grows when anything may have been missed: whoever has loaded something loads it again. */
export const epoch = signal(0);
/** What is said to those who don't see the page. */
export const announcement = signal('');

const TOPICS = ['summary', 'endpoints', 'storages', 'feeds'];
/** The newest of each topic; nothing until it has come. */
export const latest = Object.fromEntries(TOPICS.map((topic) => [topic, signal(/** @type {any} */ (null))]));

/** Says something to those who don't see the page. */
export function announce(/** @type {string} */ text) {
  // The same words twice in a row are said twice only when they differ.
  announcement.value = announcement.value === text ? `${text}\u00a0` : text;
}

setInterval(() => {
  if (!document.hidden && !paused.value) now.value = Date.now() + skew.value;
}, 1000);
document.addEventListener('visibilitychange', () => {
  if (!document.hidden && !paused.value) now.value = Date.now() + skew.value;
});

/** @type {Set<(transitions: any[]) => void>} */
const listeners = new Set();
/** @type {any[]} */
let collected = [];
let collecting = 0;

function collect(/** @type {any} */ transition) {
  collected.push(transition);
  if (collecting === 0) collecting = window.setTimeout(hand, 150);
}

/** Many at once: a busy site has hundreds a second. */
function hand() {
  collecting = 0;
  const all = collected;
  collected = [];
  if (!paused.value) for (const listener of listeners) listener(all);
}

/** @type {EventSource | null} */
let source = null;
let waiting = 0;
let attempt = 0;

function connect() {
  waiting = 0;
  source?.close();
  const stream = new EventSource(`/api/v1/events?topics=transitions,${TOPICS.join(',')}`);
  source = stream;
  stream.onopen = () => {
    const again = connection.value === 'reconnecting';
    attempt = 0;
    connection.value = 'live';
    if (again) {
      announce('Connected again');
      epoch.value += 1;
      whoami().catch(() => {});
    }
  };
  stream.onerror = () => {
    if (source !== stream) return;
    if (connection.value === 'live') announce('Connection lost');
    connection.value = 'reconnecting';
    // The browser tries again by itself only as long as it was answered before.
    if (stream.readyState !== EventSource.CLOSED || waiting !== 0) return;
    attempt += 1;
    waiting = window.setTimeout(retry, Math.min(10_000, 500 * 2 ** Math.min(attempt, 5)));
  };
  stream.addEventListener('transition', (event) => collect(JSON.parse(event.data)));
  stream.addEventListener('gap', () => {
    if (!paused.value) epoch.value += 1;
  });
  for (const topic of TOPICS) {
    stream.addEventListener(topic, (event) => {
      if (!paused.value) latest[topic].value = JSON.parse(event.data);
    });
  }
}

/** Whoever is turned away needs to sign in, which only an ordinary call tells. */
async function retry() {
  await whoami().catch(() => {});
  if (session.value === 'signed_out') waiting = 0;
  else connect();
}

/** A page that nobody sees for a minute stops listening: a browser has few connections for each host, and its other pages need them. */
let resting = false;
let hidden = 0;
document.addEventListener('visibilitychange', () => {
  clearTimeout(hidden);
  if (document.hidden) hidden = window.setTimeout(rest, 60_000);
  else if (resting) {
    resting = false;
    connect();
    if (!paused.value) epoch.value += 1;
  }
});

function rest() {
  if (source === null) return;
  resting = true;
  hush();
  connection.value = 'connecting';
}

function hush() {
  source?.close();
  source = null;
  clearTimeout(waiting);
  waiting = 0;
}

/** Begins to listen once somebody is signed in, and ends with that. */
export function listen() {
  effect(() => {
    const signedIn = session.value !== null && session.value !== 'signed_out';
    if (signedIn && source === null && !resting) {
      connection.value = 'connecting';
      connect();
    } else if (!signedIn) {
      resting = false;
      hush();
    }
  });
}

/** Stops the page, or lets it go on from how things stand. */
export function togglePause() {
  batch(() => {
    paused.value = !paused.value;
    if (!paused.value) {
      now.value = Date.now() + skew.value;
      epoch.value += 1;
      for (const topic of TOPICS) if (latest[topic].value) ask(topic).catch(() => {});
    }
  });
  announce(paused.value ? 'Paused' : 'Live');
}

async function ask(/** @type {string} */ topic) {
  latest[topic].value = await get(`/api/v1/${topic}`);
}

/**
 * The newest of a topic, asked for if the stream has not brought it yet.
 * @returns {{ value: any, error: any, again: () => void }}
 */
export function useTopic(/** @type {'summary' | 'endpoints' | 'storages' | 'feeds'} */ topic) {
  const [error, setError] = useState(/** @type {any} */ (null));
  const load = () => ask(topic).then(() => setError(null), setError);
  useEffect(() => {
    if (latest[topic].value === null) load();
  }, [epoch.value]);
  const value = latest[topic].value;
  return { value, error: value === null ? error : null, again: load };
}

/** Hears of transitions, some at a time. */
export function useTransitions(/** @type {(transitions: any[]) => void} */ heard, /** @type {unknown[]} */ inputs = []) {
  useEffect(() => {
    listeners.add(heard);
    return () => void listeners.delete(heard);
  }, inputs);
}

/**
 * What a call answers: asked when `inputs` change, after a gap, and by `again`, but never more than once in `every` ms and
 * never twice at once. A failure is kept beside the last value.
 * @param {(stop: AbortSignal) => Promise<any>} load
 * @param {unknown[]} inputs
 * @returns {{ value: any, error: any, loading: boolean, again: () => void }}
 */
export function useLoaded(load, inputs, every = 1000) {
  const [state, setState] = useState(/** @type {any} */ ({ value: null, error: null, loading: true }));
  const doing = useRef(/** @type {any} */ (null));
  if (doing.current === null) doing.current = { wanted: 0, last: 0, busy: false, stop: new AbortController(), load };
  const run = async (/** @type {any} */ own) => {
    own.busy = true;
    own.wanted = 0;
    own.last = performance.now();
    try {
      const value = await own.load(own.stop.signal);
      if (!own.stop.signal.aborted) setState({ value, error: null, loading: false });
    } catch (error) {
      if (!own.stop.signal.aborted) setState((/** @type {any} */ was) => ({ ...was, error, loading: false }));
    }
    own.busy = false;
    if (own.more && !own.stop.signal.aborted) {
      own.more = false;
      later(own);
    }
  };
  const later = (/** @type {any} */ own) => {
    if (own.busy) own.more = true;
    else if (own.wanted === 0) own.wanted = window.setTimeout(() => run(own), Math.max(0, own.last + every - performance.now()));
  };
  useEffect(() => {
    const own = { wanted: 0, last: 0, busy: false, more: false, stop: new AbortController(), load };
    doing.current = own;
    setState((/** @type {any} */ was) => ({ ...was, loading: true }));
    run(own);
    return () => {
      own.stop.abort();
      clearTimeout(own.wanted);
    };
  }, [...inputs, epoch.value]);
  return { ...state, again: () => later(doing.current) };
}

/**
 * Rows that keep still while somebody is at them: the pointer over the list, the focus in it, or the page paused. Those
 * shown are renewed in place; new ones are counted and come when asked for, or when nobody is at them any more.
 * @param {any[] | null} fresh the newest rows
 * @param {(row: any) => string} key
 * @param {string} about what the rows are of: for something else they are taken as they are
 */
export function useSteady(fresh, key, about) {
  const list = useRef(/** @type {HTMLElement | null} */ (null));
  const shown = useRef({ about: '', rows: /** @type {any[]} */ ([]), fresh: /** @type {any[] | null} */ (null) });
  const [, setTurn] = useState(0);
  const turn = () => setTurn((n) => n + 1);
  const held = () => {
    const at = list.current;
    return paused.value || Boolean(at && (at.matches(':hover') || at.contains(document.activeElement)));
  };
  const state = shown.current;
  if (fresh !== null && (state.fresh !== fresh || state.about !== about)) {
    if (state.about !== about || state.rows.length === 0 || !held()) {
      state.rows = fresh;
    } else {
      const byKey = new Map(fresh.map((row) => [key(row), row]));
      state.rows = state.rows.map((row) => byKey.get(key(row)) ?? row);
    }
    state.about = about;
    state.fresh = fresh;
  }
  const known = new Set(state.rows.map(key));
  const news = (state.fresh ?? []).filter((row) => !known.has(key(row))).length;
  const take = () => {
    state.rows = state.fresh ?? [];
    turn();
  };
  const let_go = () => {
    // Where the focus goes next is known a moment later.
    setTimeout(() => {
      if (state.fresh !== null && state.rows !== state.fresh && !held()) take();
    }, 60);
  };
  useEffect(() => {
    if (news > 0) announce(`${news} new`);
  }, [news > 0]);
  // Until others have come those before them stay, so that nothing flickers.
  const stale = fresh === null && state.about !== about;
  return { rows: stale && state.rows.length === 0 ? null : state.rows, stale, news: stale ? 0 : news, take, hold: { ref: list, onPointerLeave: let_go, onFocusOut: let_go, 'aria-busy': stale } };
}
