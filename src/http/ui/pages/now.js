// How things stand: what needs somebody, the feeds, how much is done, the endpoints.

import { get, part, url } from '../api.js';
import { Throughput } from '../chart.js';
import { ACTIVE, count, many, size } from '../format.js';
import { now, useLoaded, useSteady, useTopic, useTransitions } from '../live.js';
import { html, useEffect, useState } from '../vendor.js';
import { Badge, Health, Meter, News, Page, Pending, Section, Time, Trouble } from '../widgets.js';

export function NowPage() {
  const summary = useTopic('summary');
  const feeds = useTopic('feeds');
  const endpoints = useTopic('endpoints');
  const storages = useTopic('storages');
  const rows = summary.value && feeds.value ? feedRows(summary.value, feeds.value) : null;
  return html`<${Page} title="Now">
    <${Attention} rows=${rows} endpoints=${endpoints.value} storages=${storages.value} unowned=${summary.value?.unowned ?? 0} />
    <${Section} title="Feeds">
      ${rows ? html`<${Feeds} fresh=${rows} />` : html`<${Pending} of=${summary.error ? summary : feeds} what="The feeds" />`}
    <//>
    <${Rate} />
    <${Section} title="Endpoints" aside=${html`<a href="/endpoints">all about them</a>`}>
      ${endpoints.value ? html`<${Endpoints} all=${endpoints.value.endpoints} />` : html`<${Pending} of=${endpoints} what="The endpoints" />`}
    <//>
  <//>`;
}

/** Feeds of the config first; others may still have jobs. */
function feedRows(/** @type {any} */ summary, /** @type {any} */ feeds) {
  const counts = new Map(summary.feeds.map((/** @type {any} */ row) => [row.feed, row]));
  const rows = feeds.feeds.map((/** @type {any} */ feed) => row(feed.name, feed, counts.get(feed.name)));
  const known = new Set(rows.map((/** @type {any} */ one) => one.name));
  for (const [name, counted] of counts) if (!known.has(name)) rows.push(row(name, null, counted));
  return rows;
}

function row(/** @type {string} */ name, /** @type {any} */ feed, /** @type {any} */ counted) {
  const phases = counted?.phases ?? {};
  const sum = (/** @type {string[]} */ names) => names.reduce((all, phase) => all + (phases[phase] ?? 0), 0);
  return {
    name,
    feed,
    ready: feed?.inbox ? feed.inbox.ready + feed.inbox.settling : null,
    denied: feed?.inbox?.denied ?? 0,
    queued: sum(['queued', 'uploaded']),
    running: sum(['submitted', 'running', 'cancelling']),
    ending: sum(['scored', 'delivered']),
    held: counted?.held ?? 0,
    ended: counted?.finished_24h ?? {},
  };
}

function Attention({ rows, endpoints, storages, unowned }) {
  const items = [];
  const closed = (/** @type {any} */ side) => side.state === 'suspended' || side.state === 'outage';
  for (const side of (endpoints?.endpoints ?? []).filter(closed)) items.push(html`<li key=${`e${side.name}`}>
    <${Health} side=${side} /> Endpoint <a href=${`/endpoints/${part(side.name)}`}>${side.name}</a> (<${Time} at=${side.since} />): ${side.error?.message ?? 'no reason is known'}</li>`);
  for (const side of (storages?.storages ?? []).filter(closed)) items.push(html`<li key=${`s${side.name}`}>
    <${Health} side=${side} /> Storage <a href="/endpoints">${side.name}</a> (<${Time} at=${side.since} />): ${side.error?.message ?? 'no reason is known'}</li>`);
  for (const one of rows ?? []) {
    if (one.held > 0) items.push(html`<li key=${`h${one.name}`}><${Badge} state="held" /> <a href=${url('/jobs', { feed: one.name, held: 'true' })}>${many(one.held, 'job')} of ${one.name}</a> ${one.held === 1 ? 'waits' : 'wait'} for a person</li>`);
    if (one.denied > 0) items.push(html`<li key=${`d${one.name}`}><${Badge} state="denied" kind="failed" /> <a href=${`/feeds/${part(one.name)}`}>${many(one.denied, 'file')} of ${one.name}</a> can’t be read</li>`);
    if (one.feed?.schedule?.expect_by && Date.parse(one.feed.schedule.expect_by) < now.value) items.push(html`<li key=${`m${one.name}`}><${Badge} state="missing" kind="failed" /> <a href=${`/feeds/${part(one.name)}`}>${one.name}</a> expected a file <${Time} at=${one.feed.schedule.expect_by} /></li>`);
    for (const note of one.feed?.inbox?.notes ?? []) items.push(html`<li key=${`n${one.name}${note}`}><${Badge} state="note" kind="queued" /> <a href=${`/feeds/${part(one.name)}`}>${one.name}</a>: ${note}</li>`);
  }
  if (unowned > 0) items.push(html`<li key="unowned"><${Badge} state="unowned" kind="held" /> ${many(unowned, 'job')} of a node that is away: another one takes ${unowned === 1 ? 'it' : 'them'} over when that one’s lease ends</li>`);
  if (items.length === 0) return null;
  return html`<${Section} title="Needs a look" kind="attention"><ul class="plain">${items}</ul><//>`;
}

function Feeds({ fresh }) {
  const steady = useSteady(fresh, (row) => row.name, 'feeds');
  if (fresh.length === 0) return html`<p class="quiet">The config has no feeds.</p>`;
  const jobs = (/** @type {any} */ row, /** @type {Record<string, any>} */ more) => url('/jobs', { feed: row.name, ...more });
  const n = (/** @type {number} */ value, /** @type {string} */ to, /** @type {string} */ kind = '') =>
    value > 0 ? html`<a class=${kind} href=${to}>${count(value)}</a>` : html`<span class="zero">0</span>`;
  return html`<div class="list" ...${steady.hold}><${News} steady=${steady} /><table class="cards">
    <thead><tr><th scope="col">Feed</th><th scope="col" class="num">In folder</th><th scope="col" class="num">Queued</th><th scope="col" class="num">Running</th>
      <th scope="col" class="num">Delivering</th><th scope="col" class="num">Held</th><th scope="col" class="num">Succeeded <small>24 h</small></th><th scope="col" class="num">Failed <small>24 h</small></th><th scope="col">State</th></tr></thead>
    <tbody>${(steady.rows ?? []).map((row) => html`<tr key=${row.name}>
      <th scope="row" class="name">${row.feed ? html`<a data-row href=${`/feeds/${part(row.name)}`}>${row.name}</a>` : html`<a data-row href=${jobs(row, {})}>${row.name}</a>`}</th>
      <td class="num" data-label="In folder">${row.ready === null ? html`<span class="quiet">–</span>` : n(row.ready, `/feeds/${part(row.name)}`)}</td>
      <td class="num" data-label="Queued">${n(row.queued, jobs(row, { phase: 'queued,uploaded' }))}</td>
      <td class="num" data-label="Running">${n(row.running, jobs(row, { phase: 'submitted,running,cancelling' }))}</td>
      <td class="num" data-label="Delivering">${n(row.ending, jobs(row, { phase: 'scored,delivered' }))}</td>
      <td class="num" data-label="Held">${n(row.held, jobs(row, { held: 'true' }), 'warn')}</td>
      <td class="num" data-label="Succeeded, 24 h">${n(row.ended.succeeded ?? 0, jobs(row, { phase: 'succeeded', since: '24h' }))}</td>
      <td class="num" data-label="Failed, 24 h">${n(row.ended.failed ?? 0, jobs(row, { phase: 'failed', since: '24h' }), 'bad')}</td>
      <td data-label="State">${feedState(row)}</td></tr>`)}</tbody></table></div>`;
}

function feedState(/** @type {any} */ row) {
  const { feed } = row;
  if (!feed) return html`<span class="quiet">not in this node’s config</span>`;
  if (feed.paused) return html`<${Badge} state="paused" title=${feed.paused.why} />${feed.paused.until && html` <span class="quiet">until <${Time} at=${feed.paused.until} /></span>`}`;
  const next = feed.schedule?.next?.[0];
  if (next) return html`<span class="quiet">next fire <${Time} at=${next.due} /></span>`;
  return feed.folder ? html`<span class="quiet">watching</span>` : html`<span class="quiet">by API alone</span>`;
}

const RANGES = /** @type {[number, string][]} */ ([[60, '1 h'], [360, '6 h'], [1440, '24 h']]);

function Rate() {
  const [minutes, setMinutes] = useState(60);
  const loaded = useLoaded((stop) => get('/api/v1/throughput', { minutes }, stop), [minutes], 2000);
  useTransitions((all) => {
    if (all.some((one) => !ACTIVE.includes(one.to))) loaded.again();
  }, [minutes]);
  const minute = Math.floor(now.value / 60_000);
  useEffect(() => loaded.again(), [minute]);
  const points = loaded.value?.points ?? null;
  const sum = (/** @type {string} */ name) => (points ?? []).reduce((/** @type {number} */ all, /** @type {any} */ point) => all + point[name], 0);
  const range = RANGES.find(([n]) => n === minutes)?.[1];
  const told = points && `In the last ${range}: ${count(sum('succeeded'))} succeeded, ${count(sum('failed'))} failed, ${count(sum('cancelled') + sum('skipped'))} cancelled or skipped, ${size(sum('bytes'))}`;
  const choice = html`<span class="choice" role="group" aria-label="How far back">${RANGES.map(([n, text]) =>
    html`<button key=${n} type="button" class="small" aria-pressed=${n === minutes} onClick=${() => setMinutes(n)}>${text}</button>`)}</span>`;
  return html`<${Section} title="Throughput" aside=${choice}>
    <${Trouble} error=${loaded.error} again=${loaded.again} />
    ${points ? html`<p class="told">${told}</p><${Throughput} points=${points} step=${loaded.value.step_seconds} label=${`Jobs that ended, by time. ${told}`} />` : !loaded.error && html`<p class="quiet pending tall">Loading…</p>`}
  <//>`;
}

/** Endpoints, a row each. */
export function Endpoints({ all }) {
  const steady = useSteady(all, (row) => row.name, 'endpoints');
  if (all.length === 0) return html`<p class="quiet">The config has no endpoints.</p>`;
  return html`<div class="list" ...${steady.hold}><${News} steady=${steady} /><table class="cards">
    <thead><tr><th scope="col">Endpoint</th><th scope="col">Kind</th><th scope="col">Health</th><th scope="col">Runs in flight</th><th scope="col">Calls</th><th scope="col">Budget left</th></tr></thead>
    <tbody>${(steady.rows ?? []).map((one) => html`<tr key=${one.name}>
      <th scope="row" class="name"><a data-row href=${`/endpoints/${part(one.name)}`}>${one.name}</a></th>
      <td data-label="Kind">${one.kind}</td>
      <td data-label="Health"><${Health} side=${one} /></td>
      <td data-label="Runs in flight"><span class="measure">${count(one.in_flight)} of ${count(one.max_in_flight)} <${Meter} value=${one.in_flight} max=${one.max_in_flight} label=${`${one.in_flight} of ${one.max_in_flight} runs in flight`} /></span></td>
      <td data-label="Calls">${count(one.calls)} of ${count(one.concurrency)}${one.concurrency < one.max_concurrency && html` <span class="quiet">(lowered from ${one.max_concurrency})</span>`}</td>
      <td data-label="Budget left">${budget(one.budget)}</td></tr>`)}</tbody></table></div>`;
}

/** What a budget has left, in words. */
export function budget(/** @type {any} */ one) {
  if (!one) return html`<span class="quiet">no limit</span>`;
  const parts = [];
  if (one.minute_left !== null) parts.push(`${count(one.minute_left)} this minute`);
  if (one.week_left !== null) parts.push(`${count(one.week_left)} this week`);
  return parts.join(', ') || 'no limit';
}
