// One job: where it is, the way it came, what the remote said, what went in and what came out.

import { call, get, part } from '../api.js';
import { FINAL, count, many, size, span } from '../format.js';
import { now, useLoaded, useTopic, useTransitions } from '../live.js';
import { html, useRef, useState } from '../vendor.js';
import { Act, Badge, Copied, Facts, File, Page, Pending, Phase, Remote, Section, Time, Trouble } from '../widgets.js';

const PREVIEW = 65_536;

export function JobPage({ id }) {
  const job = useLoaded((stop) => get(`/api/v1/jobs/${part(id)}`, {}, stop), [id], 400);
  const events = useLoaded((stop) => get(`/api/v1/jobs/${part(id)}/events`, {}, stop), [id], 400);
  const requests = useLoaded((stop) => get(`/api/v1/jobs/${part(id)}/requests`, {}, stop), [id], 1000);
  const again = () => {
    job.again();
    events.again();
    requests.again();
  };
  useTransitions((all) => {
    if (all.some((one) => one.job === id)) again();
  }, [id]);
  if (!job.value) return html`<${Page} title="Job"><${Pending} of=${job} what="The job" /><//>`;
  const it = job.value;
  return html`<${Page} title=${it.name} aside=${html`<${Phase} job=${it} />`}>
    <${Trouble} error=${job.error} again=${again} />
    <${Actions} key=${`${it.phase}${it.generation}${Boolean(it.held)}`} job=${it} again=${again} />
    ${it.held && html`<${Section} title="Waits for a person" kind="attention"><p><code>${it.held.code}</code></p><blockquote>${it.held.message}</blockquote><//>`}
    ${it.error && html`<${Section} title=${it.phase === 'failed' ? 'Why it failed' : 'The last error'} kind=${it.phase === 'failed' ? 'failed' : ''}><${Remote} error=${it.error} /><//>`}
    <div class="columns">
      <div>
        <${Section} title="Its way">${events.value ? html`<${Way} events=${events.value.events} job=${it} />` : html`<${Pending} of=${events} what="Its history" />`}<//>
        <${Files} job=${it} />
      </div>
      <${About} job=${it} />
    </div>
    <${Section} title="History">${events.value ? html`<${History} events=${events.value.events} />` : html`<${Pending} of=${events} what="Its history" />`}<//>
    <${Requests} loaded=${requests} />
  <//>`;
}

function Actions({ job, again }) {
  const act = (/** @type {string} */ what, /** @type {unknown} */ body = {}) => async () => {
    await call('POST', `/api/v1/jobs/${job.id}/${what}`, { json: body, headers: { 'If-Match': `"${job.generation}"` } });
    again();
  };
  const over = FINAL.has(job.phase);
  const retry = job.phase === 'succeeded' ? 'It has succeeded: drop a copy of the file to have it scored again.' : null;
  const cancel = over ? `It is ${job.phase} already.` : job.phase === 'delivered' ? 'Its outputs are in place already.' : job.phase === 'cancelling' && !job.held ? 'Its remote run is being stopped already.' : null;
  return html`<div class="actions">
    <${Act} run=${act('retry')} why=${retry} kind=${job.phase === 'failed' ? 'primary' : ''} done="Noted: it is retried.">Retry<//>
    ${!over && html`<${Act} run=${act('cancel')} why=${cancel} kind="danger" done="Noted: it is cancelled.">Cancel<//>`}
    ${job.held && html`<${Release} act=${act} />`}
  </div>`;
}

/** What became of a run that is in doubt is for a person to say. */
function Release({ act }) {
  const field = useRef(/** @type {HTMLInputElement | null} */ (null));
  const [wanted, setWanted] = useState('');
  return html`<fieldset class="release"><legend>Release it: what became of its remote run?</legend>
    <label>Its id is <input ref=${field} size="24" value=${wanted} onInput=${(/** @type {any} */ event) => setWanted(event.target.value.trim())} spellcheck=${false} /></label>
    <${Act} run=${() => act('release', { adopt: wanted })()} why=${wanted ? null : 'Write the id of the remote run first.'} done="Noted.">Adopt that run<//>
    <${Act} run=${act('release', { not_started: true })} done="Noted.">It was never started<//>
  </fieldset>`;
}

/** The phases one after the other, each as long as it took. */
function Way({ events, job }) {
  const steps = [];
  for (const event of events) {
    const last = steps.at(-1);
    const at = Date.parse(event.at);
    if (last && last.phase === event.to && last.generation === event.generation) {
      last.tries += 1;
      continue;
    }
    if (last) last.until = at;
    steps.push({ phase: event.to, generation: event.generation, from: at, at: event.at, until: 0, tries: 1 });
  }
  const over = FINAL.has(job.phase);
  const first = steps[0]?.from ?? 0;
  const end = over ? steps.at(-1)?.from ?? first : Math.max(now.value, steps.at(-1)?.from ?? first);
  const whole = Math.max(1, end - first);
  return html`<p class="told">${over ? `It took ${span(end - first)}` : `It has taken ${span(end - first)} until now`}, of which the service had it for ${span(steps.filter((one) => ['submitted', 'running', 'cancelling'].includes(one.phase)).reduce((sum, one) => sum + ((one.until || end) - one.from), 0))}.</p>
  <ol class="way">${steps.map((one, n) => {
    const until = one.until || end;
    const last = n === steps.length - 1;
    return html`<li key=${n} class=${last && !over ? 'going' : ''}>
      <span class="way-name"><${Badge} state=${one.phase} />${one.generation > 1 && html` <span class="quiet">run ${one.generation}</span>`}</span>
      <span class="way-bar"><span class=${`is-${one.phase}`} style=${{ marginLeft: `${Math.min(99.5, ((one.from - first) / whole) * 100)}%`, width: `${Math.max(0.5, ((until - one.from) / whole) * 100)}%` }}></span></span>
      <span class="way-took">${last && over ? html`<${Time} at=${one.at} />` : span(until - one.from)}${one.tries > 1 && html` <span class="quiet">${one.tries} events</span>`}</span></li>`;
  })}</ol>`;
}

function About({ job }) {
  const feeds = useTopic('feeds');
  const feed = feeds.value?.feeds.find((/** @type {any} */ one) => one.name === job.feed);
  const instant = (/** @type {string} */ at) => at && html`<${Time} at=${at} exact=${true} /> <span class="quiet">(<${Time} at=${at} />)</span>`;
  return html`<${Section} title="About it"><${Facts} of=${[
    ['Feed', html`<a href=${`/feeds/${part(job.feed)}`}>${job.feed}</a>`],
    feed && ['Endpoint', html`<a href=${`/endpoints/${part(feed.endpoint)}`}>${feed.endpoint}</a>`],
    job.origin && ['Came by', job.origin],
    job.doing && ['Now', html`<${Doing} job=${job} />`],
    ['Job', html`<${Copied} text=${job.id} label="the job’s id" />`],
    ['Trace', job.trace_id && html`<${Copied} text=${job.trace_id} label="the trace’s id" />`],
    ['Remote run', job.remote_id && html`<${Copied} text=${job.remote_id} label="the remote run’s id" />`],
    ['Run', job.generation > 1 && `${count(job.generation)} of this job`],
    ['Attempts', job.attempts > 0 && count(job.attempts)],
    ['Came', instant(job.created_at)],
    ['Ended', instant(job.finished_at)],
    ['Changed', !job.finished_at && instant(job.updated_at)],
    ['Deadline', !job.finished_at && instant(job.deadline_at)],
    ['Fire', job.fire && html`${job.fire.kind} for <${Time} at=${job.fire.nominal} exact=${true} />`],
    ['Same content as', job.duplicate_of && html`<a href=${`/jobs/${job.duplicate_of}`}>${job.duplicate_of}</a>`],
  ]} /><//>`;
}

/** What it does at the moment, or waits for. */
export function Doing({ job }) {
  const { action, state, endpoint, storage } = job.doing;
  const side = endpoint ? html`<a href=${`/endpoints/${part(endpoint)}`}>${endpoint}</a>` : storage;
  if (state === 'acting' || state === 'writing') return html`${action} is under way`;
  if (state === 'side') return html`${action} waits until ${side} is well again`;
  if (state === 'run') return html`${action} waits: as many runs as may be are at ${side}`;
  if (state === 'turn') return html`${action} waits for its turn`;
  return job.next_action_at ? html`${action} <${Time} at=${job.next_action_at} />` : action;
}

function Files({ job }) {
  const base = `/api/v1/jobs/${part(job.id)}`;
  const preview = (/** @type {string} */ path) => () => get(`${base}/${path}`, { preview: PREVIEW });
  return html`<${Section} title="Files">
    <${File} title="in" path=${`${base}/input`} name=${job.name} bytes=${job.size_bytes} where=${job.source_moved_to} sha256=${job.sha256} load=${preview('input')} />
    ${job.outputs.map((/** @type {any} */ output) => {
      const path = `outputs/${part(output.name)}`;
      return html`<${File} key=${output.name} title=${output.name} path=${`${base}/${path}`} name=${output.path.split('/').pop()} bytes=${output.size_bytes} where=${output.path} sha256=${output.sha256} load=${preview(path)} />`;
    })}
    ${job.outputs.length === 0 && html`<p class="quiet">${FINAL.has(job.phase) ? 'It has no outputs.' : 'Its outputs are shown here once they are delivered.'}</p>`}
  <//>`;
}

function History({ events }) {
  return html`<div class="scroll" tabindex="0" role="region" aria-label="History"><table class="cards">
    <thead><tr><th scope="col">At</th><th scope="col">Step</th><th scope="col">What happened</th><th scope="col">Details</th><th scope="col" class="num">Run</th></tr></thead>
    <tbody>${events.map((/** @type {any} */ event) => html`<tr key=${event.revision}>
      <td class="nowrap wide"><${Time} at=${event.at} exact=${true} /></td>
      <td class="nowrap wide">${event.from === event.to ? html`<${Badge} state=${event.to} />` : html`<span class="quiet">${event.from} →</span> <${Badge} state=${event.to} />`}</td>
      <td data-label="What">${event.outcome.replaceAll('_', ' ')}</td><td class="words">${event.detail}</td><td class="num" data-label="Run">${event.generation}</td></tr>`)}</tbody></table></div>`;
}

function Requests({ loaded }) {
  const value = loaded.value;
  const all = value?.requests ?? [];
  return html`<${Section} title="Requests" aside=${value && html`<span class="quiet">as node ${value.node} remembers them</span>`}>
    ${!value && html`<${Pending} of=${loaded} what="Its requests" />`}
    ${value && all.length === 0 && html`<p class="quiet">Node ${value.node} remembers none: they are kept in memory, by the node that sent them, until it is started anew.</p>`}
    ${all.length > 0 && html`<div class="scroll" tabindex="0" role="region" aria-label="Requests"><table class="cards">
      <thead><tr><th scope="col">At</th><th scope="col">For</th><th scope="col">Request</th><th scope="col" class="num">Status</th><th scope="col" class="num">Took</th></tr></thead>
      <tbody>${all.map((/** @type {any} */ one, /** @type {number} */ n) => html`<tr key=${n}>
        <td class="nowrap wide"><${Time} at=${one.at} exact=${true} /></td><td data-label="For">${one.operation}</td>
        <td class="words"><code>${one.method} ${one.url}</code>${one.error && html`<div class="bad">${one.error}</div>`}</td>
        <td data-label="Status" class=${`num ${one.status >= 400 || !one.status ? 'bad' : ''}`}>${one.status ?? '–'}</td><td class="num nowrap" data-label="Took">${span(one.duration_ms)}${one.times > 1 && html`<div class="quiet">${count(one.times)} times</div>`}</td></tr>`)}</tbody></table></div>
      ${value.complete === false && html`<p class="quiet">${many(all.length, 'request')}: earlier ones, and those of other nodes, are not among them.</p>`}`}
  <//>`;
}

/** Outputs of a job as links. */
export function outputLinks(/** @type {any} */ job) {
  return job.outputs.map((/** @type {any} */ output) => html`<a key=${output.name} href=${`/api/v1/jobs/${part(job.id)}/outputs/${part(output.name)}`} download>${output.path.split('/').pop()}</a> <span class="quiet">${size(output.size_bytes)}</span> `);
}

