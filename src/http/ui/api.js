// Calls of the API. Whatever goes wrong becomes a `Failure`, whose message says it to a person.

import { parseJson } from './format.js';
import { signal } from './vendor.js';

/** Who is signed in; nothing until it is known, `signed_out` where a token is needed first. */
export const session = signal(/** @type {any} */ (null));

/** How far the daemon's clock is ahead of the browser's, where that is more than a second. */
export const skew = signal(0);

/** A call that did not do what was asked for. */
export class Failure extends Error {
  /** @param {number} status 0 where nothing answered */
  constructor(/** @type {number} */ status, /** @type {string} */ message, /** @type {any} */ problem = null) {
    super(message);
    this.status = status;
    this.problem = problem;
  }
}

/** A path with its query; what is not set is left out. */
export function url(/** @type {string} */ path, /** @type {Record<string, any>} */ query = {}) {
  const params = new URLSearchParams();
  for (const [key, value] of Object.entries(query)) {
    if (value !== undefined && value !== null && value !== '') params.set(key, String(value));
  }
  const text = params.toString();
  return text ? `${path}?${text}` : path;
}

/** One part of a path. */
export const part = encodeURIComponent;

/** What an answer that is a failure says. */
export function failure(/** @type {number} */ status, /** @type {string} */ text, /** @type {string | null} */ retryAfter = null) {
  let problem = /** @type {any} */ (null);
  try {
    problem = JSON.parse(text);
  } catch {
    // A proxy's page: its status has to do.
  }
  if (status === 401 && session.value !== null) session.value = 'signed_out';
  const wait = retryAfter && /^\d+$/.test(retryAfter) ? ` Try again in ${retryAfter} s.` : '';
  const words = problem?.detail || problem?.title || `the daemon answered with status ${status}`;
  return new Failure(status, sentence(words) + wait, problem);
}

/** The failure of a call that nothing answered. */
export function unreachable() {
  return new Failure(0, 'The daemon does not answer. Is it running, and can this machine reach it?');
}

function sentence(/** @type {string} */ text) {
  const first = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?…]$/.test(first) ? first : `${first}.`;
}

/**
 * Asks; the answer is what its JSON says.
 * @param {string} method
 * @param {string} path
 * @param {{ json?: unknown, text?: string, type?: string, headers?: Record<string, string>, signal?: AbortSignal }} [more]
 * @returns {Promise<any>}
 */
export async function call(method, path, more = {}) {
  const headers = { Accept: 'application/json', ...more.headers };
  let body;
  if (more.json !== undefined) {
    headers['Content-Type'] = 'application/json';
    body = JSON.stringify(more.json);
  } else if (more.text !== undefined) {
    headers['Content-Type'] = more.type ?? 'text/plain';
    body = more.text;
  }
  let answer;
  let text;
  try {
    answer = await fetch(path, { method, headers, body, signal: more.signal, credentials: 'same-origin' });
    text = await answer.text();
  } catch (error) {
    if (error instanceof DOMException && error.name === 'AbortError') throw error;
    throw unreachable();
  }
  const date = Date.parse(answer.headers.get('Date') ?? '');
  if (!Number.isNaN(date)) {
    const ahead = date - Date.now();
    skew.value = Math.abs(ahead) > 2000 ? ahead : 0;
  }
  if (!answer.ok) throw failure(answer.status, text, answer.headers.get('Retry-After'));
  return text ? parseJson(text) : null;
}

/** Asks for what there is. */
export const get = (/** @type {string} */ path, /** @type {Record<string, any>} */ query = {}, /** @type {AbortSignal=} */ stop = undefined) =>
  call('GET', url(path, query), { signal: stop });

/** Asks for something to be done. */
export const post = (/** @type {string} */ path, /** @type {unknown} */ json = {}) => call('POST', path, { json });

/** A key that is used once; also where the page came without TLS, and the browser makes no UUIDs. */
export function freshKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return `ui-${Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('')}`;
}

/** Who is there: fills `session`. */
export async function whoami() {
  try {
    session.value = await get('/api/v1/session');
  } catch (error) {
    if (error instanceof Failure && error.status === 401) session.value = 'signed_out';
    else throw error;
  }
}

/** Shows a token, for a cookie. */
export async function signIn(/** @type {string} */ token) {
  session.value = await post('/api/v1/session', { token });
}

/** Gives the cookie back. */
export async function signOut() {
  await call('DELETE', '/api/v1/session');
  session.value = 'signed_out';
}

/** Why whoever is signed in can't change anything; nothing where it can. */
export function mayNot() {
  return session.value?.role === 'operate' ? null : 'Your token may only look: sign in with one whose role is “operate”.';
}
