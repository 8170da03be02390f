// Jobs: found by name, feed, phase, hold and age, page by page; and retried or cancelled, many at a time.

import { get, mayNot, part, post } from '../api.js';
import { ACTIVE, FINAL, PHASES, count, gist, many, sinceInstant, size, span } from '../format.js';
import { latest, now, useLoaded, useSteady, useTopic, useTransitions } from '../live.js';
import { place, setQuery } from '../router.js';
import { html, useEffect, useRef, useState } from '../vendor.js';
import { Dialog, News, Page, Pending, Phase, Time, Trouble } from '../widgets.js';

const PAGE = 50;
const AGES = [['', 'any time'], ['1h', 'the last hour'], ['24h', 'the last 24 hours'], ['7d', 'the last 7 days'], ['30d', 'the last 30 days']];
const STATES = [
  ['', 'any phase'],
  [ACTIVE.join(','), 'not ended'],
  ['queued,uploaded', 'queued or uploaded'],
  ['submitted,running,cancelling', 'at the service'],
  ['scored,delivered', 'being delivered'],
  ...Object.keys(PHASES).map((phase) => [phase, PHASES[phase]]),
];

/** What is asked for, as the API takes it. */
function filterOf(/** @type {URLSearchParams} */ query) {
  const set = (/** @type {string} */ name) => query.get(name) || undefined;
  return { feed: set('feed'), phase: set('phase'), held: set('held'), name: set('name'), since: sinceInstant(query.get('since'), now.peek()) };
}

export function JobsPage() {
  const { query, state } = place.value;
  const cursor = query.get('cursor');
  const about = query.toString();
  const loaded = useLoaded(async (stop) => ({ about, ...(await get('/api/v1/jobs', { ...filterOf(query), cursor, limit: PAGE }, stop)) }), [about]);
  useTransitions((all) => {
    const feed = query.get('feed');
    if (all.some((one) => !feed || one.feed === feed)) loaded.again();
  }, [about]);
  const fresh = loaded.value?.about === about ? loaded.value : null;
  const steady = useSteady(fresh?.jobs ?? null, (job) => job.id, about);

  const [chosen, setChosen] = useState(/** @type {Map<string, string>} */ (new Map()));
  const [all, setAll] = useState(false);
  const filters = new URLSearchParams(query);
  filters.delete('cursor');
  const filterText = filters.toString();
  useEffect(() => {
    setChosen(new Map());
    setAll(false);
  }, [filterText]);
  const [asked, setAsked] = useState(/** @type {any} */ (null));

  const rows = steady.rows ?? [];
  const stack = /** @type {string[]} */ (state.stack ?? []);
  const older = () => setQuery({ cursor: fresh.next_cursor }, { state: { stack: [...stack, cursor ?? ''] } });
  const newer = () => setQuery({ cursor: stack.at(-1) || null }, { state: { stack: stack.slice(0, -1) } });
  const choose = (/** @type {any[]} */ jobs, /** @type {boolean} */ on) => {
    const next = new Map(chosen);
    for (const job of jobs) {
      if (on) next.set(job.id, job.name);
      else next.delete(job.id);
    }
    setChosen(next);
    setAll(false);
  };
  const wholePage = rows.length > 0 && rows.every((job) => chosen.has(job.id));
  const begin = (/** @type {string} */ verb) => setAsked({ verb, ids: all ? null : [...chosen.keys()], filter: all ? filterOf(query) : null });

  return html`<${Page} title="Jobs">
    <${Filters} query=${query} />
    <section class="panel" aria-label="Jobs found">
      <div class=${`bulk ${chosen.size > 0 ? 'on' : ''}`}>
        ${chosen.size === 0 ? html`<${Found} filter=${filterText} shown=${rows.length} whole=${!cursor && fresh && !fresh.next_cursor} />` : html`
          <span role="status">${all ? 'All that match are selected' : `${many(chosen.size, 'job')} selected`}</span>
          ${!all && wholePage && (fresh?.next_cursor || cursor) && html`<button type="button" onClick=${() => setAll(true)}>Select all that match</button>`}
          <button type="button" aria-disabled=${Boolean(mayNot())} title=${mayNot() ?? undefined} onClick=${() => !mayNot() && begin('retry')}>Retry…</button>
          <button type="button" class="danger" aria-disabled=${Boolean(mayNot())} title=${mayNot() ?? undefined} onClick=${() => !mayNot() && begin('cancel')}>Cancel…</button>
          <button type="button" class="plain" onClick=${() => { setChosen(new Map()); setAll(false); }}>Select none</button>`}
        <${News} steady=${steady} />
      </div>
      <${Trouble} error=${loaded.error} again=${loaded.again} />
      ${steady.rows === null ? !loaded.error && html`<${Pending} of=${loaded} />` : rows.length === 0 && !steady.stale ? html`<${Nothing} filtered=${filterText !== ''} />` : html`
      <div class="list" ...${steady.hold}><table class="cards jobs">
        <thead><tr>
          <th scope="col" class="check"><input type="checkbox" aria-label="Select all on this page" checked=${wholePage} indeterminate=${!wholePage && rows.some((job) => chosen.has(job.id))}
            onChange=${(/** @type {any} */ event) => choose(rows, event.target.checked)} /></th>
          <th scope="col">File</th><th scope="col">Feed</th><th scope="col">Phase</th><th scope="col" class="num">Size</th><th scope="col">Came</th><th scope="col">Took</th></tr></thead>
        <tbody>${rows.map((job) => html`<${Row} key=${job.id} job=${job} on=${chosen.has(job.id)} choose=${choose} />`)}</tbody>
      </table></div>`}
      <nav class="pager" aria-label="Pages of jobs">
        <button type="button" disabled=${!cursor} onClick=${() => setQuery({ cursor: null })}>Newest</button>
        <button type="button" disabled=${!cursor || stack.length === 0} onClick=${newer}>← Newer</button>
        <button type="button" disabled=${!fresh?.next_cursor} onClick=${older}>Older →</button>
      </nav>
    </section>
    ${asked && html`<${Bulk} ...${asked} names=${chosen} close=${(/** @type {boolean} */ done) => {
      setAsked(null);
      if (done) {
        setChosen(new Map());
        setAll(false);
      }
      loaded.again();
    }} />`}
  <//>`;
}

function Row({ job, on, choose }) {
  const waits = !job.held && job.doing?.state === 'side' ? `waits until ${job.doing.endpoint ?? job.doing.storage} is well again` : null;
  const said = job.held?.message ?? waits ?? (job.phase === 'failed' || !FINAL.has(job.phase) ? job.error?.message : null);
  return html`<tr class=${on ? 'chosen' : ''}>
    <td class="check"><input type="checkbox" aria-label=${`Select ${job.name}`} checked=${on} onChange=${(/** @type {any} */ event) => choose([job], event.target.checked)} /></td>
    <th scope="row" class="name"><div><a data-row href=${`/jobs/${job.id}`}>${job.name}</a></div>${said && html`<span class="said" title=${said}>${gist(said)}</span>`}</th>
    <td data-label="Feed"><a class="soft" href=${`/feeds/${part(job.feed)}`}>${job.feed}</a></td>
    <td data-label="Phase"><${Phase} job=${job} />${job.generation > 1 && html` <span class="quiet nowrap">run ${job.generation}</span>`}</td>
    <td class="num" data-label="Size">${size(job.size_bytes)}</td>
    <td data-label="Came"><${Time} at=${job.created_at} /></td>
    <td data-label="Took" class="nowrap">${job.finished_at ? span(Date.parse(job.finished_at) - Date.parse(job.created_at)) : html`<span class="quiet">${span(now.value - Date.parse(job.created_at)).replace(/^\d+ ms$/, '0 s').replace(/\.\d/, '')}…</span>`}</td>
  </tr>`;
}

function Nothing({ filtered }) {
  if (filtered) return html`<p class="empty">No job matches. <a href="/jobs">Show all</a></p>`;
  return html`<p class="empty">There are no jobs yet: drop a file into a feed’s folder, or onto its page.</p>`;
}

/** How many match, counted beside the list. */
function Found({ filter, shown, whole }) {
  const [wanted] = useState(() => ({}));
  const loaded = useLoaded((stop) => get('/api/v1/jobs/count', filterOf(new URLSearchParams(filter)), stop), [filter], 3000);
  useTransitions(() => loaded.again(), [wanted]);
  if (whole) return html`<span class="quiet" role="status">${many(shown, 'job')}</span>`;
  if (!loaded.value) return html`<span class="quiet">${loaded.error ? '' : '…'}</span>`;
  return html`<span class="quiet" role="status">${loaded.value.more ? `more than ${count(loaded.value.count)} jobs` : many(loaded.value.count, 'job')}</span>`;
}

function Filters({ query }) {
  const feeds = useTopic('feeds');
  const names = (feeds.value?.feeds ?? []).map((/** @type {any} */ feed) => feed.name);
  const also = (latest.summary.value?.feeds ?? []).map((/** @type {any} */ row) => row.feed).filter((/** @type {string} */ name) => !names.includes(name));
  const [name, setName] = useState(query.get('name') ?? '');
  const typed = useRef(0);
  // Typing begins one entry of the history, however many letters it has.
  const began = useRef(false);
  useEffect(() => {
    const at = query.get('name') ?? '';
    if (at !== name.trim()) setName(at);
  }, [query]);
  const search = (/** @type {any} */ event) => {
    const text = event.target.value;
    setName(text);
    clearTimeout(typed.current);
    typed.current = window.setTimeout(() => {
      if ((place.value.query.get('name') ?? '') !== text.trim()) setQuery({ name: text.trim(), cursor: null }, { replace: began.current });
      began.current = true;
    }, 250);
  };
  const set = (/** @type {string} */ key) => (/** @type {any} */ event) => setQuery({ [key]: event.target.value, cursor: null });
  const given = (/** @type {string[][]} */ choices, /** @type {string} */ key) => {
    const value = query.get(key) ?? '';
    return choices.some(([one]) => one === value) ? choices : [...choices, [value, value]];
  };
  const options = (/** @type {string[][]} */ choices) => choices.map(([value, text]) => html`<option key=${value} value=${value}>${text}</option>`);
  return html`<form class="filters" role="search" aria-label="Jobs" onSubmit=${(/** @type {Event} */ event) => event.preventDefault()}>
    <label class="wide">Name <input id="search" type="search" placeholder="any part of it ( / )" value=${name} onInput=${search} onFocus=${() => (began.current = false)} spellcheck=${false} autocomplete="off" /></label>
    <label>Feed <select value=${query.get('feed') ?? ''} onChange=${set('feed')}>${options(given([['', 'any feed'], ...[...names, ...also].map((one) => [one, one])], 'feed'))}</select></label>
    <label>Phase <select value=${query.get('phase') ?? ''} onChange=${set('phase')}>${options(given(STATES, 'phase'))}</select></label>
    <label>Came in <select value=${query.get('since') ?? ''} onChange=${set('since')}>${options(given(AGES, 'since'))}</select></label>
    <label class="tick"><input type="checkbox" checked=${query.get('held') === 'true'} onChange=${(/** @type {any} */ event) => setQuery({ held: event.target.checked ? 'true' : null, cursor: null })} /> held</label>
    ${query.toString() !== '' && html`<a class="button" href="/jobs">Clear</a>`}
  </form>`;
}

const MEANS = {
  retry: 'Each goes on at the step that failed. A new remote run is started only where the last one has ended.',
  cancel: 'Remote runs are stopped, and nothing is delivered. Files go to the folder for failed inputs, as the feed says.',
};

/** Asks whether to, saying how many; then shows how far it is, and what was refused. */
function Bulk({ verb, ids, filter, names, close }) {
  // What comes while one reads the question is not meant by the answer.
  const [fixed] = useState(() => filter && { ...clean(filter), until: new Date(now.peek()).toISOString() });
  const counted = useLoaded((stop) => (ids ? Promise.resolve({ count: ids.length, more: false }) : get('/api/v1/jobs/count', fixed, stop)), []);
  const [state, setState] = useState(/** @type {any} */ ({ step: 'asking', noted: 0, refused: [], refused_count: 0, error: null }));
  const gone = useRef(false);
  useEffect(() => () => { gone.current = true; }, []);
  const title = verb === 'retry' ? 'Retry' : 'Cancel';
  const n = counted.value?.count ?? 0;
  const all = counted.value ? (counted.value.more ? `more than ${count(n)} jobs` : many(n, 'job')) : '… jobs';

  const run = async () => {
    let { noted, refused, refused_count } = state;
    let at = state.at ?? (ids ? 0 : null);
    setState({ ...state, step: 'doing', error: null });
    try {
      for (;;) {
        const body = ids ? { ids: ids.slice(at, at + 1000) } : { filter: body_filter(fixed), cursor: at };
        const answer = await post(`/api/v1/jobs/${verb}`, body);
        noted += answer.noted;
        refused_count += answer.refused_count;
        refused = [...refused, ...answer.refused].slice(0, 100);
        at = ids ? at + 1000 : answer.next_cursor;
        const over = ids ? at >= ids.length : !at;
        setState({ step: over ? 'done' : 'doing', noted, refused, refused_count, at, error: null });
        if (over || gone.current) return;
      }
    } catch (error) {
      setState({ step: 'stopped', noted, refused, refused_count, at, error });
    }
  };
  const close_ = () => close(state.step !== 'asking');
  const tried = state.noted + state.refused_count;
  return html`<${Dialog} title=${state.step === 'asking' ? `${title} ${all}?` : `${title}: ${all}`} close=${close_}>
    ${state.step === 'asking' && html`
      <p>${MEANS[/** @type {'retry'} */ (verb)]}</p>
      ${ids ? html`<ul class="names">${ids.slice(0, 8).map((/** @type {string} */ id) => html`<li key=${id}>${names.get(id)}</li>`)}${ids.length > 8 && html`<li class="quiet">and ${count(ids.length - 8)} more</li>`}</ul>`
        : html`<p class="quiet">${told(filter)}</p>`}
      <${Trouble} error=${counted.error} again=${counted.again} />`}
    ${state.step !== 'asking' && html`
      <progress max=${Math.max(n, tried, 1)} value=${tried} aria-label="How far it is"></progress>
      <p role="status">${state.step === 'done' ? 'Done: ' : ''}${count(state.noted)} noted${state.refused_count > 0 ? `, ${count(state.refused_count)} refused` : ''}.</p>
      ${state.refused.length > 0 && html`<div class="scroll short" tabindex="0" role="region" aria-label="What was refused"><table><thead><tr><th scope="col">Refused</th><th scope="col">Why</th></tr></thead>
        <tbody>${state.refused.map((/** @type {any} */ one) => html`<tr key=${one.id}><td><a href=${`/jobs/${one.id}`}>${names.get(one.id) ?? one.id}</a></td><td>${one.reason}</td></tr>`)}</tbody></table></div>`}
      <${Trouble} error=${state.error} again=${run} />`}
    <div class="buttons end">
      ${state.step === 'asking' && html`<button type="button" onClick=${close_}>Leave them</button>
        <button type="button" class=${verb === 'cancel' ? 'danger' : 'primary'} disabled=${!counted.value || n === 0} onClick=${run}>${title} ${all}</button>`}
      ${state.step === 'doing' && html`<button type="button" onClick=${close_}>Stop here</button>`}
      ${(state.step === 'done' || state.step === 'stopped') && html`<button type="button" class="primary" onClick=${close_}>Close</button>`}
    </div>
  <//>`;
}

function clean(/** @type {any} */ filter) {
  return Object.fromEntries(Object.entries(filter).filter(([, value]) => value !== undefined));
}

/** In a body a truth is no text. */
function body_filter(/** @type {any} */ filter) {
  return filter.held === undefined ? filter : { ...filter, held: filter.held === 'true' };
}

function told(/** @type {any} */ filter) {
  const parts = [];
  if (filter.name) parts.push(`“${filter.name}” in their name`);
  if (filter.feed) parts.push(`feed ${filter.feed}`);
  if (filter.phase) parts.push(`phase ${filter.phase.replaceAll(',', ' or ')}`);
  if (filter.held) parts.push('held');
  if (filter.since) parts.push(`came since ${filter.since}`);
  return parts.length === 0 ? 'All jobs there are, of all feeds.' : `All with: ${parts.join('; ')}.`;
}
