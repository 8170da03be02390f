// The app: who is signed in, which page is shown, the frame around it, and the keys that work everywhere.

import { mayNot, session, signOut, whoami } from './api.js';
import { announcement, connection, listen, paused, togglePause } from './live.js';
import { EndpointPage, EndpointsPage } from './pages/endpoint.js';
import { FeedPage } from './pages/feed.js';
import { JobPage } from './pages/job.js';
import { JobsPage } from './pages/jobs.js';
import { NowPage } from './pages/now.js';
import { SignIn } from './pages/sign_in.js';
import { focusOn, navigate, place } from './router.js';
import { html, render, signal, useEffect, useState } from './vendor.js';
import { Dialog, Guard, Page, Trouble } from './widgets.js';

const KEYS = [
  ['/', 'search for jobs by name'],
  ['g n', 'go to Now'],
  ['g j', 'go to Jobs'],
  ['g e', 'go to Endpoints'],
  ['j', 'next row'],
  ['k', 'row before'],
  ['Enter', 'open the row'],
  ['x', 'select the row'],
  ['p', 'pause the page, or let it go on'],
  ['?', 'show these keys'],
];

const ROUTES = /** @type {[RegExp, (...parts: string[]) => any][]} */ ([
  [/^\/$/, () => html`<${NowPage} />`],
  [/^\/jobs$/, () => html`<${JobsPage} />`],
  [/^\/jobs\/([^/]+)$/, (id) => html`<${JobPage} key=${id} id=${id} />`],
  [/^\/feeds\/([^/]+)$/, (name) => html`<${FeedPage} key=${name} name=${name} />`],
  [/^\/endpoints$/, () => html`<${EndpointsPage} />`],
  [/^\/endpoints\/([^/]+)$/, (name) => html`<${EndpointPage} key=${name} name=${name} />`],
]);

const showKeys = signal(false);

function Route() {
  const { path } = place.value;
  for (const [pattern, shown] of ROUTES) {
    const found = pattern.exec(path);
    if (found) return shown(...found.slice(1).map(decodeURIComponent));
  }
  return html`<${Page} title="There is no such page">
    <p>Nothing is at <code>${path}</code>. <a href="/">Now</a> shows how things stand, <a href="/jobs">Jobs</a> finds a job by its name.</p>
  <//>`;
}

function Connection() {
  const state = paused.value ? 'paused' : connection.value;
  const words = { paused: 'paused', connecting: 'connecting', live: 'live', reconnecting: 'reconnecting' };
  return html`<span class=${`connection is-${state}`} title="Whether what you see is how things stand">${words[/** @type {'live'} */ (state)]}</span>
    <button type="button" class="small" aria-pressed=${paused.value} title="Keep everything as it is (p)" onClick=${togglePause}>${paused.value ? 'Go on' : 'Pause'}</button>`;
}

function Theme() {
  const [theme, setTheme] = useState(document.documentElement.dataset.theme ?? 'auto');
  const choose = (/** @type {Event} */ event) => {
    const value = /** @type {HTMLSelectElement} */ (event.target).value;
    if (value === 'auto') delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = value;
    try {
      if (value === 'auto') localStorage.removeItem('theme');
      else localStorage.setItem('theme', value);
    } catch {
      // It holds for this page then.
    }
    setTheme(value);
    dispatchEvent(new Event('themechange'));
  };
  return html`<select class="small" aria-label="Colours" value=${theme} onChange=${choose}>
    <option value="auto">auto</option><option value="light">light</option><option value="dark">dark</option></select>`;
}

function Header() {
  const { path } = place.value;
  const who = session.value;
  const link = (/** @type {string} */ to, /** @type {string} */ text, /** @type {boolean} */ here) =>
    html`<a href=${to} aria-current=${here ? 'page' : undefined}>${text}</a>`;
  const leave = () => signOut().catch((error) => alert(error.message));
  return html`<header>
    <a class="brand" href="/" aria-label="scoreline"><img src="/assets/icon.svg" alt="" width="22" height="22" /><span>scoreline</span></a>
    <nav aria-label="Pages">
      ${link('/', 'Now', path === '/' || path.startsWith('/feeds/'))}
      ${link('/jobs', 'Jobs', path.startsWith('/jobs'))}
      ${link('/endpoints', 'Endpoints', path.startsWith('/endpoints'))}
    </nav>
    <div class="status">
      <${Connection} />
      <span class="where" title=${`node ${who.node} of site ${who.site}, scoreline ${who.version}`}>${who.node} · ${who.site} · ${who.version}</span>
      ${mayNot() && html`<span class="badge" title=${mayNot()}>read only</span>`}
      <${Theme} />
      <button type="button" class="small keys" title="Keys (?)" aria-label="Show the keys" onClick=${() => (showKeys.value = true)}>?</button>
      ${who.needs_token && html`<button type="button" class="small" onClick=${leave}>Sign out</button>`}
    </div>
  </header>`;
}

function Keys() {
  if (!showKeys.value) return null;
  return html`<${Dialog} title="Keys" close=${() => (showKeys.value = false)}>
    <dl class="keys">${KEYS.map(([key, does]) => html`<div key=${key}><dt>${key.split(' ').map((one) => html`<kbd>${one}</kbd>`)}</dt><dd>${does}</dd></div>`)}</dl>
    <p>For programs: <a href="/api/docs">the HTTP API</a>.</p>
  <//>`;
}

function App() {
  const [error, setError] = useState(/** @type {any} */ (null));
  const ask = () => whoami().then(() => setError(null), setError);
  useEffect(() => {
    ask();
  }, []);
  const who = session.value;
  // A daemon that is away is asked again until it is there.
  useEffect(() => {
    if (!error || who !== null) return undefined;
    const timer = setTimeout(ask, 3000);
    return () => clearTimeout(timer);
  }, [error]);
  if (who === null) return html`<main class="alone">${error ? html`<h1>scoreline</h1><${Trouble} error=${error} again=${ask} />` : html`<p class="quiet pending">Loading…</p>`}</main>`;
  if (who === 'signed_out') return html`<${SignIn} />`;
  return html`
    <a class="skip" href="#main" onClick=${skip}>Skip to the content</a>
    <${Header} />
    <main id="main" tabindex="-1">
      ${connection.value === 'reconnecting' && html`<p class="banner" role="status">The daemon does not answer at the moment. What you see is from before; the page tries again by itself.</p>`}
      <${Guard} key=${place.value.path}><${Route} /><//>
    </main>
    <${Keys} />
    <div class="unseen" aria-live="polite">${announcement.value}</div>`;
}

function skip(/** @type {Event} */ event) {
  event.preventDefault();
  document.getElementById('main')?.focus();
}

/** Rows are what `j` and `k` go through: their links, in the order of the page. */
function step(/** @type {number} */ by) {
  const rows = /** @type {HTMLElement[]} */ ([...document.querySelectorAll('[data-row]')]).filter((row) => row.offsetParent !== null);
  if (rows.length === 0) return;
  const active = document.activeElement;
  const at = rows.findIndex((row) => row === active || row.closest('tr, li')?.contains(active));
  rows[at < 0 ? (by > 0 ? 0 : rows.length - 1) : Math.max(0, Math.min(rows.length - 1, at + by))].focus();
}

let waitsForPlace = 0;

document.addEventListener('keydown', (event) => {
  const at = event.target;
  const typing = at instanceof HTMLElement && at.matches('input:not([type=checkbox]):not([type=file]), textarea, select');
  if (typing && event.key === 'Escape') {
    // A search field would be emptied as well.
    event.preventDefault();
    at.blur();
  }
  if (typing || event.ctrlKey || event.metaKey || event.altKey || document.querySelector('dialog[open]')) return;
  if (session.value === null || session.value === 'signed_out') return;
  const goes = waitsForPlace > 0 && event.timeStamp - waitsForPlace < 1500;
  waitsForPlace = 0;
  const to = goes && { n: '/', j: '/jobs', e: '/endpoints' }[event.key];
  if (to) navigate(to);
  else if (event.key === 'g') waitsForPlace = event.timeStamp;
  else if (event.key === 'j') step(1);
  else if (event.key === 'k') step(-1);
  else if (event.key === 'p') togglePause();
  else if (event.key === '?') showKeys.value = true;
  else if (event.key === 'x') /** @type {HTMLElement | null | undefined} */ (document.activeElement?.closest('tr')?.querySelector('input[type=checkbox]'))?.click();
  else if (event.key === '/') {
    if (place.value.path !== '/jobs') navigate('/jobs');
    focusOn('search');
  } else return;
  event.preventDefault();
});

listen();
render(html`<${App} />`, /** @type {HTMLElement} */ (document.getElementById('app')));
