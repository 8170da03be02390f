// Endpoints and storages: how much goes there, how well they are, what came back wrong, and a call by hand.

import { call, get, mayNot, part, post, url } from '../api.js';
import { count, gist, many, span } from '../format.js';
import { epoch, useLoaded, useTopic, useTransitions } from '../live.js';
import { html, useRef, useState } from '../vendor.js';
import { Act, Badge, Facts, Health, Meter, Page, Pending, Remote, Section, Sheet, Time, Trouble } from '../widgets.js';
import { Endpoints, budget } from './now.js';

export function EndpointsPage() {
  const endpoints = useTopic('endpoints');
  const storages = useTopic('storages');
  return html`<${Page} title="Endpoints">
    <${Section} title="Scoring services">${endpoints.value ? html`<${Endpoints} all=${endpoints.value.endpoints} />` : html`<${Pending} of=${endpoints} what="The endpoints" />`}<//>
    ${storages.value ? storages.value.storages.map((/** @type {any} */ one) => html`<${Section} key=${one.name} title=${`Storage ${one.name}`} aside=${html`<${Health} side=${one} />`} kind=${closed(one) ? 'attention' : ''}>
      <${Facts} of=${[['Uploads', `${count(one.uploads)} under way`], ['Deliveries', `${count(one.deliveries)} under way`]]} />
      <${Closed} side=${one} path=${`/api/v1/storages/${part(one.name)}/resume`} again=${storages.again} />
      ${one.faults?.length > 0 && html`<${Faults} side=${one} />`}
    <//>`) : html`<${Pending} of=${storages} what="The storages" />`}
  <//>`;
}

const closed = (/** @type {any} */ side) => side.state === 'suspended' || side.state === 'outage';

/** Why nothing is sent there, until when, and a way to go on. */
function Closed({ side, path, again }) {
  if (side.state === 'open') return null;
  const resume = async () => {
    await post(path);
    again();
  };
  if (side.state === 'paused') return html`<p>It asked for a pause: ${span(side.paused_seconds * 1000)} of it are left.</p>`;
  return html`<p>${side.state === 'suspended' ? 'Somebody has to mend something: nothing is sent there' : 'It can’t be reached'} since <${Time} at=${side.since} exact=${true} /> (<${Time} at=${side.since} />).
      ${' '}${side.next_probe_seconds === null ? 'It is being asked right now whether it is well.' : `It is asked next whether it is well in ${span(side.next_probe_seconds * 1000)}.`}</p>
    <${Remote} error=${side.error} />
    <${Act} run=${resume} kind="primary" done="Noted: it is asked at once.">Resume<//>`;
}

export function EndpointPage({ name }) {
  const endpoints = useTopic('endpoints');
  if (!endpoints.value) return html`<${Page} title=${name}><${Pending} of=${endpoints} what="The endpoint" /><//>`;
  const one = endpoints.value.endpoints.find((/** @type {any} */ seen) => seen.name === name);
  if (!one) return html`<${Page} title=${name}><p>There is no endpoint of this name in this node’s config: <a href="/endpoints">these are</a>.</p><//>`;
  const waiting = Object.entries(one.budget?.waiting ?? {}).filter(([, n]) => n > 0).map(([what, n]) => `${n} to ${what}`).join(', ');
  return html`<${Page} title=${name} aside=${html`<${Health} side=${one} />`}>
    ${one.state !== 'open' && html`<${Section} title="Health" kind=${closed(one) ? 'attention' : ''}><${Closed} side=${one} path=${`/api/v1/endpoints/${part(name)}/resume`} again=${endpoints.again} /><//>`}
    <div class="columns">
      <${Section} title="What goes there" aside=${html`<span class="quiet">as this node sees it</span>`}><${Facts} of=${[
        ['Kind', one.kind],
        ['Runs in flight', html`<span class="measure">${count(one.in_flight)} of ${count(one.max_in_flight)} <${Meter} value=${one.in_flight} max=${one.max_in_flight} label=${`${one.in_flight} of ${one.max_in_flight} runs in flight`} /></span>`],
        ['Calls at once', html`<span class="measure">${count(one.calls)} of ${count(one.concurrency)} <${Meter} value=${one.calls} max=${one.concurrency} label=${`${one.calls} of ${one.concurrency} calls`} /></span>`],
        ['Lowered from', one.concurrency < one.max_concurrency && `${count(one.max_concurrency)}, since it refused for load`],
        ['Budget', one.budget ? html`${one.budget.name}: ${budget(one.budget)} left` : 'no limit'],
        ['Waiting for it', waiting || null],
      ]} /><//>
      <${Failures} name=${name} />
    </div>
    <${Faults} side=${one} />
    ${one.kind === 'rrs' && html`<${TryIt} name=${name} />`}
  <//>`;
}

/** What went wrong there last, also what passed by itself. */
function Faults({ side }) {
  const faults = side.faults ?? [];
  return html`<${Section} title="What went wrong there" kind="faults" aside=${html`<span class="quiet">for jobs of this node</span>`}>
    ${faults.length === 0 && html`<p class="quiet">No call went wrong there that this node remembers.</p>`}
    ${faults.length > 0 && html`<div class="scroll" tabindex="0" role="region" aria-label="What went wrong there"><table class="cards">
      <thead><tr><th scope="col">At</th><th scope="col">Doing</th><th scope="col">What came back</th><th scope="col" class="num">Times</th><th scope="col">Job</th></tr></thead>
      <tbody>${faults.map((/** @type {any} */ fault, /** @type {number} */ n) => html`<tr key=${`${n} ${fault.at}`}>
        <td data-label="At"><${Time} at=${fault.at} /></td><td data-label="Doing">${fault.action}</td>
        <td class="words"><code>${fault.code}</code> <${Badge} state=${fault.class} kind=${`class-${fault.class}`} /> ${fault.message}</td>
        <td class="num" data-label="Times">${count(fault.times)}</td><td data-label="Job"><a href=${`/jobs/${part(fault.job)}`} title=${fault.job}>…${fault.job.slice(-8)}</a></td></tr>`)}</tbody></table></div>`}
  <//>`;
}

/** Its jobs that failed last, and why. */
function Failures({ name }) {
  const feeds = useTopic('feeds');
  const mine = (feeds.value?.feeds ?? []).filter((/** @type {any} */ feed) => feed.endpoint === name).map((/** @type {any} */ feed) => feed.name);
  const names = mine.join('\n');
  const loaded = useLoaded(async (stop) => {
    const pages = await Promise.all(mine.slice(0, 20).map((/** @type {string} */ feed) => get('/api/v1/jobs', { feed, phase: 'failed', limit: 5 }, stop)));
    return pages.flatMap((page) => page.jobs).sort((a, b) => (a.updated_at < b.updated_at ? 1 : -1)).slice(0, 8);
  }, [names], 2000);
  useTransitions((all) => {
    if (all.some((one) => one.to === 'failed' && mine.includes(one.feed))) loaded.again();
  }, [names, epoch.value]);
  const jobs = loaded.value ?? [];
  return html`<${Section} title="Jobs that failed last">
    <${Trouble} error=${loaded.error} again=${loaded.again} />
    ${loaded.value && jobs.length === 0 && html`<p class="quiet">${mine.length === 0 ? 'No feed uses it.' : `None of ${mine.length === 1 ? `feed ${mine[0]}` : many(mine.length, 'feed')}.`}</p>`}
    <ul class="faults">${jobs.map((/** @type {any} */ job) => html`<li key=${job.id}><div><a data-row class="broken" href=${`/jobs/${job.id}`}>${job.name}</a> <span class="quiet"><${Time} at=${job.updated_at} /></span></div>
      <div class="said"><code>${job.error?.code}</code> <span title=${job.error?.message}>${gist(job.error?.message ?? '')}</span></div></li>`)}</ul>
    ${mine.length > 0 && jobs.length > 0 && html`<p><a href=${url('/jobs', { phase: 'failed', ...(mine.length === 1 && { feed: mine[0] }) })}>All that failed</a></p>`}
  <//>`;
}

const SAMPLE = 'Col1,Col2\n1,This is a good day\n';

/** A request/response call by hand: a table in, tables out. */
function TryIt({ name }) {
  const key = `try ${name}`;
  const kept = () => {
    try {
      return JSON.parse(localStorage.getItem(key) ?? '{}');
    } catch {
      return {};
    }
  };
  const [form, setForm] = useState(() => ({ input: 'input1', parameters: '', text: SAMPLE, ...kept() }));
  const [answer, setAnswer] = useState(/** @type {any} */ (null));
  const head = useRef(/** @type {any} */ (null));
  const set = (/** @type {string} */ field) => (/** @type {any} */ event) => setForm({ ...form, [field]: event.target.value });
  const send = async () => {
    setAnswer(null);
    const query = /** @type {Record<string, string>} */ ({ input: form.input.trim() });
    for (const line of form.parameters.split('\n').filter((/** @type {string} */ one) => one.trim())) {
      const at = line.indexOf('=');
      if (at < 1) throw new Error(`“${line}” is no parameter: write Name=value`);
      query[`param.${line.slice(0, at).trim()}`] = line.slice(at + 1).trim();
    }
    try {
      localStorage.setItem(key, JSON.stringify(form));
    } catch {
      // Then it is only for now.
    }
    const json = /^\s*\{/.test(form.text);
    setAnswer(await call('POST', url(`/api/v1/endpoints/${part(name)}/execute`, query), { text: form.text, type: json ? 'application/json' : 'text/csv' }));
    setTimeout(() => head.current?.focus());
  };
  return html`<${Section} title="Try it">
    <p class="quiet">A call by hand: the service scores the rows below and answers at once. Nothing is stored.</p>
    <div class="try">
      <label>Input <input value=${form.input} onInput=${set('input')} spellcheck=${false} /></label>
      <label>Parameters <textarea rows="2" value=${form.parameters} onInput=${set('parameters')} placeholder="Name=value, one a line" spellcheck=${false}></textarea></label>
      <label class="wide">Rows, the first one with the columns’ names <textarea rows="6" value=${form.text} onInput=${set('text')} spellcheck=${false}></textarea></label>
    </div>
    <${Act} run=${send} kind="primary" why=${mayNot()}>Score<//>
    ${answer && html`<h3 tabindex="-1" ref=${head}>Answer <span class="quiet">after ${span(answer.duration_ms)}</span></h3>
      ${answer.outputs.map((/** @type {any} */ output) => html`<div key=${output.output}><p><${Badge} state=${output.output} kind="name" /></p><${Sheet} name="answer.csv" text=${output.table} label=${`Output ${output.output}`} /></div>`)}
      <details><summary>As the service said it</summary><pre class="text" tabindex="0" role="region" aria-label="The service’s answer">${JSON.stringify(answer.answer, null, 2)}</pre></details>`}
  <//>`;
}
