// Where the page is: path, query and state of the history, and how it goes elsewhere. Filters live in the query, so that
// a link shows what its sender saw, and the browser's back button takes back the last one.

import { signal } from './vendor.js';

const here = () => ({ path: location.pathname, query: new URLSearchParams(location.search), state: history.state ?? {} });

/** Where the page is. */
export const place = signal(here());
/** Counts the times that another page was gone to: then the focus goes to its heading. */
export const arrivals = signal(0);

/** Goes to a path of the app. */
export function navigate(/** @type {string} */ to, { replace = false, state = {} } = {}) {
  const before = location.pathname;
  if (replace) history.replaceState(state, '', to);
  else history.pushState(state, '', to);
  place.value = here();
  if (location.pathname !== before) {
    scrollTo(0, 0);
    arrivals.value += 1;
  }
}

/** Changes the query only: what is set to nothing goes. */
export function setQuery(/** @type {Record<string, string | null>} */ changes, { replace = false, state = {} } = {}) {
  const query = new URLSearchParams(location.search);
  for (const [key, value] of Object.entries(changes)) {
    if (value) query.set(key, value);
    else query.delete(key);
  }
  const text = query.toString();
  navigate(location.pathname + (text ? `?${text}` : ''), { replace, state });
}

addEventListener('popstate', () => {
  const before = place.value.path;
  place.value = here();
  if (place.value.path !== before) arrivals.value += 1;
});

// Links of the app are followed without loading it anew.
document.addEventListener('click', (event) => {
  if (event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
  const link = event.target instanceof Element ? event.target.closest('a') : null;
  if (!link || link.target || link.hasAttribute('download') || link.origin !== location.origin) return;
  if (link.pathname.startsWith('/api/') || link.pathname.startsWith('/assets/') || link.getAttribute('href')?.startsWith('#')) return;
  event.preventDefault();
  navigate(link.pathname + link.search);
});

/** What is to have the focus as soon as it is there. */
let wanted = '';

/** Gives something the focus: now, or when the page that is on its way has it. */
export function focusOn(/** @type {string} */ id) {
  wanted = id;
  focusWanted();
}

/** Whether what was to have the focus is there, and has it now. */
export function focusWanted() {
  const at = document.getElementById(wanted);
  if (at) wanted = '';
  at?.focus();
  return at !== null;
}
