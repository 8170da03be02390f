// One feed: what lies in its folder and why each file waits, when it fires, and a place to drop files onto.

import { call, freshKey, get, part, post, failure, mayNot, unreachable, url } from '../api.js';
import { FINAL, count, inZone, many, size, span } from '../format.js';
import { announce, latest, now, useLoaded, useSteady, useTopic, useTransitions } from '../live.js';
import { html, signal, useEffect, useRef, useState } from '../vendor.js';
import { Act, Badge, Dialog, Facts, News, Page, Pending, Phase, Section, Time, Trouble } from '../widgets.js';
import { outputLinks } from './job.js';

export function FeedPage({ name }) {
  const feeds = useTopic('feeds');
  if (!feeds.value) return html`<${Page} title=${name}><${Pending} of=${feeds} what="The feed" /><//>`;
  const feed = feeds.value.feeds.find((/** @type {any} */ one) => one.name === name);
  if (!feed) return html`<${Page} title=${name}><p>There is no feed of this name in this node’s config. <a href=${url('/jobs', { feed: name })}>Its jobs</a> may still be there.</p><//>`;
  const state = feed.paused ? html`<${Badge} state="paused" />` : html`<${Badge} state="active" kind="health-open" />`;
  return html`<${Page} title=${name} aside=${state}>
    <${Actions} key=${Boolean(feed.paused)} feed=${feed} again=${feeds.again} />
    ${feed.paused && html`<${Section} title="Paused" kind="attention"><p>By ${feed.paused.by}, <${Time} at=${feed.paused.since} />${feed.paused.until ? html`, until <${Time} at=${feed.paused.until} exact=${true} />` : ', until somebody resumes it'}${feed.paused.why && html`: ${feed.paused.why}`}</p><//>`}
    <${Drop} name=${name} />
    <div class="columns">
      <div>${feed.folder && html`<${Folder} feed=${feed} />`}<${Recent} name=${name} /></div>
      <div><${About} feed=${feed} /><${Fires} feed=${feed} /></div>
    </div>
  <//>`;
}

function Actions({ feed, again }) {
  const [asking, setAsking] = useState(false);
  const base = `/api/v1/feeds/${part(feed.name)}`;
  const run = async () => {
    await call('POST', `${base}/run`, { json: {}, headers: { 'Idempotency-Key': freshKey() } });
    again();
  };
  const resume = async () => {
    await post(`${base}/resume`);
    again();
  };
  return html`<div class="actions">
    ${feed.paused ? html`<${Act} run=${resume} kind="primary" done="Resumed.">Resume<//>` : html`
      <button type="button" aria-disabled=${Boolean(mayNot())} title=${mayNot() ?? undefined} onClick=${() => !mayNot() && setAsking(true)}>Pause…</button>`}
    <${Act} run=${run} done="Noted: it fires now.">Run now<//>
    <a class="button" href=${url('/jobs', { feed: feed.name })}>Its jobs</a>
    ${asking && html`<${Pause} name=${feed.name} base=${base} close=${(/** @type {boolean} */ done) => { setAsking(false); if (done) again(); }} />`}
  </div>`;
}

function Pause({ name, base, close }) {
  const why = useRef(/** @type {any} */ (null));
  const until = useRef(/** @type {any} */ (null));
  const [error, setError] = useState(/** @type {any} */ (null));
  const submit = async (/** @type {Event} */ event) => {
    event.preventDefault();
    try {
      const at = until.current.value;
      await post(`${base}/pause`, { why: why.current.value.trim(), ...(at && { until: new Date(at).toISOString() }) });
      announce(`${name} is paused`);
      close(true);
    } catch (failed) {
      setError(failed);
    }
  };
  return html`<${Dialog} title=${`Pause ${name}?`} close=${() => close(false)}><form onSubmit=${submit}>
    <p>Nothing new is taken from it. Jobs that there are go on.</p>
    <label>Why <input ref=${why} name="why" maxlength="200" placeholder="for whoever looks next" autofocus /></label>
    <label>Until <input ref=${until} type="datetime-local" /> <span class="quiet">by your clock; empty: until somebody resumes it</span></label>
    <${Trouble} error=${error} />
    <div class="buttons end"><button type="button" onClick=${() => close(false)}>Leave it</button><button class="primary">Pause</button></div>
  </form><//>`;
}

function About({ feed }) {
  const inbox = feed.inbox;
  return html`<${Section} title="About it"><${Facts} of=${[
    ['Takes', feed.takes !== feed.folder && feed.takes],
    ['Folder', feed.folder && html`<code>${feed.folder}</code>`],
    ['Endpoint', html`<a href=${`/endpoints/${part(feed.endpoint)}`}>${feed.endpoint}</a>`],
    ['Storage', html`<a href="/endpoints">${feed.storage}</a>`],
    inbox && ['Noticed by', inbox.noticed_by],
    inbox && inbox.notes.length > 0 && ['Notes', inbox.notes.join('; ')],
    inbox && inbox.oldest_seconds > 0 && ['Oldest file', `waits for ${span(inbox.oldest_seconds * 1000)}`],
  ]} /><//>`;
}

/** Each state of a file that is not about to be taken, in a word or two. */
const STATES = /** @type {Record<string, string>} */ ({
  ready: 'ready', waiting: 'ready', queued: 'queued', settling: 'settling', zero_grace: 'empty', open_for_writing: 'being written', no_done_marker: 'no marker',
  denied: 'denied', filtered_out: 'not for it', has_job: 'has a job', taken: 'taken', paused: 'paused',
});

function Folder({ feed }) {
  const { name } = feed;
  const loaded = useLoaded((stop) => get(`/api/v1/feeds/${part(name)}/files`, { limit: 200 }, stop), [name], 2000);
  const counts = JSON.stringify(feed.inbox);
  useEffect(() => loaded.again(), [counts]);
  useTransitions((all) => {
    if (all.some((one) => one.feed === name)) loaded.again();
  }, [name]);
  const steady = useSteady(loaded.value?.files ?? null, (file) => file.path, name);
  const inbox = feed.inbox;
  const told = inbox && [many(inbox.ready, 'file') + ' ready', inbox.settling > 0 && `${count(inbox.settling)} settling`, inbox.denied > 0 && `${count(inbox.denied)} denied`, inbox.ignored > 0 && `${count(inbox.ignored)} not for it`].filter(Boolean).join(', ');
  return html`<${Section} title="In the folder" aside=${html`<span class="quiet">${told}</span>`}>
    <${Trouble} error=${loaded.error} again=${loaded.again} />
    ${loaded.value === null ? !loaded.error && html`<p class="quiet">Loading…</p>` : html`<div class="list" ...${steady.hold}><${News} steady=${steady} />
      ${steady.rows?.length ? html`<table class="cards">
        <thead><tr><th scope="col">File</th><th scope="col">State</th><th scope="col" class="num">Size</th><th scope="col">Written</th></tr></thead>
        <tbody>${steady.rows.map((file) => html`<tr key=${file.path}><th scope="row" class="name"><span class="broken">${file.path}</span><span class="said">${file.text}</span></th>
          <td data-label="State"><${Badge} state=${STATES[file.state] ?? file.state.replaceAll('_', ' ')} kind=${`file-${file.state}`} /></td>
          <td class="num" data-label="Size">${size(file.size_bytes)}</td><td data-label="Written"><${Time} at=${file.written_at} /></td></tr>`)}</tbody></table>`
        : html`<p class="quiet">The folder is empty.</p>`}
      ${loaded.value.more > 0 && html`<p class="quiet">and ${many(loaded.value.more, 'more file', 'more files')}</p>`}</div>`}
  <//>`;
}

function Recent({ name }) {
  const loaded = useLoaded((stop) => get('/api/v1/jobs', { feed: name, limit: 10 }, stop), [name]);
  useTransitions((all) => {
    if (all.some((one) => one.feed === name)) loaded.again();
  }, [name]);
  const steady = useSteady(loaded.value?.jobs ?? null, (job) => job.id, name);
  return html`<${Section} title="Its newest jobs" aside=${html`<a href=${url('/jobs', { feed: name })}>all</a>`}>
    <${Trouble} error=${loaded.error} again=${loaded.again} />
    <div class="list" ...${steady.hold}><${News} steady=${steady} />
      ${loaded.value && steady.rows?.length === 0 && html`<p class="quiet">It has no jobs yet.</p>`}
      <ul class="rows">${(steady.rows ?? []).map((job) => html`<li key=${job.id}><a data-row class="broken" href=${`/jobs/${job.id}`}>${job.name}</a> <span><${Phase} job=${job} /> <span class="quiet"><${Time} at=${job.updated_at} /></span></span></li>`)}</ul></div>
  <//>`;
}

function Fires({ feed }) {
  const { schedule } = feed;
  const loaded = useLoaded((stop) => get(`/api/v1/feeds/${part(feed.name)}/fires`, { limit: 10 }, stop), [feed.name], 2000);
  const last = JSON.stringify([feed.last_fire, feed.open_fires]);
  useEffect(() => loaded.again(), [last]);
  const fires = loaded.value?.fires ?? [];
  const here = Intl.DateTimeFormat().resolvedOptions().timeZone;
  return html`
    ${schedule && html`<${Section} title="Next fires" aside=${html`<code>${schedule.cron}</code>`}>
      <div class="scroll" tabindex="0" role="region" aria-label="Next fires"><table><thead><tr><th scope="col"></th><th scope="col">${schedule.timezone}</th>${here !== schedule.timezone && html`<th scope="col">here</th>`}</tr></thead>
      <tbody>${schedule.next.map((/** @type {any} */ fire) => html`<tr key=${fire.nominal}><td class="nowrap"><${Time} at=${fire.due} /></td><td class="nowrap">${inZone(fire.nominal, schedule.timezone)}</td>${here !== schedule.timezone && html`<td class="nowrap"><${Time} at=${fire.nominal} zone=${here} /></td>`}</tr>`)}</tbody></table></div>
      ${schedule.expect_by && html`<p class="quiet">A file is expected by <${Time} at=${schedule.expect_by} exact=${true} />.</p>`}
    <//>`}
    <${Section} title="Fires" aside=${feed.open_fires > 0 && html`<span class="quiet">${many(feed.open_fires, 'open one', 'open ones')}</span>`}>
      <${Trouble} error=${loaded.error} again=${loaded.again} />
      ${loaded.value && fires.length === 0 && html`<p class="quiet">None yet${schedule ? '' : ': it has no schedule; “Run now” makes one'}.</p>`}
      ${fires.length > 0 && html`<ul class="rows">${fires.map((/** @type {any} */ fire) => html`<li key=${fire.id}><span><${Time} at=${fire.nominal} /> <span class="quiet">${fire.kind}${fire.note ? `, ${fire.note}` : ''}</span></span>
        <span><${Badge} state=${fire.state} kind=${`fire-${fire.state}`} title=${fire.reason ?? undefined} /> <span class="quiet">${fire.reason ? fire.reason.replaceAll('_', ' ') : many(fire.jobs, 'job')}</span></span></li>`)}</ul>`}
    <//>`;
}

/** @typedef {{ key: string, file: File, sent: number, state: 'sending' | 'failed' | 'there', error: any, job: any }} Sending */

/** Files on their way, by feed: they go on when one looks at another page meanwhile. */
const sendings = signal(/** @type {Record<string, Sending[]>} */ ({}));

function change(/** @type {string} */ feed, /** @type {string} */ key, /** @type {Partial<Sending>} */ to) {
  sendings.value = { ...sendings.value, [feed]: (sendings.value[feed] ?? []).map((one) => (one.key === key ? { ...one, ...to } : one)) };
}

/** By XMLHttpRequest: nothing else tells how much of a body is sent. The same key again is the same job. */
function send(/** @type {string} */ feed, /** @type {Sending} */ sending) {
  const request = new XMLHttpRequest();
  const { key, file } = sending;
  const failed = (/** @type {any} */ error) => {
    change(feed, key, { state: 'failed', error });
    announce(`${file.name} was not sent: ${error.message}`);
  };
  request.open('POST', url(`/api/v1/feeds/${part(feed)}/jobs`, { name: file.name }));
  request.setRequestHeader('Idempotency-Key', key);
  request.setRequestHeader('Content-Type', 'application/octet-stream');
  request.upload.onprogress = (event) => change(feed, key, { sent: event.loaded });
  request.onload = () => {
    if (request.status < 200 || request.status > 299) failed(failure(request.status, request.responseText, request.getResponseHeader('Retry-After')));
    else {
      change(feed, key, { state: 'there', sent: file.size, job: JSON.parse(request.responseText) });
      announce(`${file.name} was sent`);
    }
  };
  request.onerror = () => failed(unreachable());
  change(feed, key, { state: 'sending', sent: 0, error: null });
  request.send(file);
}

function begin(/** @type {string} */ feed, /** @type {Iterable<File>} */ files) {
  const fresh = [...files].map((file) => /** @type {Sending} */ ({ key: freshKey(), file, sent: 0, state: 'sending', error: null, job: null }));
  sendings.value = { ...sendings.value, [feed]: [...fresh, ...(sendings.value[feed] ?? [])] };
  for (const one of fresh) send(feed, one);
}

function Drop({ name }) {
  const [over, setOver] = useState(false);
  const all = sendings.value[name] ?? [];
  const reason = mayNot();
  const drop = (/** @type {DragEvent} */ event) => {
    event.preventDefault();
    setOver(false);
    if (!reason && event.dataTransfer) begin(name, event.dataTransfer.files);
  };
  const drag = (/** @type {DragEvent} */ event) => {
    event.preventDefault();
    setOver(true);
  };
  const choose = (/** @type {any} */ event) => {
    begin(name, event.target.files);
    event.target.value = '';
  };
  // A file that misses the place is not to take the browser away from the page.
  useEffect(() => {
    const stop = (/** @type {Event} */ event) => event.preventDefault();
    addEventListener('dragover', stop);
    addEventListener('drop', stop);
    return () => {
      removeEventListener('dragover', stop);
      removeEventListener('drop', stop);
    };
  }, []);
  return html`<section class="panel" aria-label="Send files">
    <div class=${`drop ${over ? 'over' : ''}`} onDragOver=${drag} onDragLeave=${() => setOver(false)} onDrop=${drop}>
      ${reason ? html`<p class="quiet">${reason}</p>` : html`<p>Drop files here, or <label class="button">choose some<input class="unseen" type="file" multiple onChange=${choose} /></label></p>`}
    </div>
    ${all.length > 0 && html`<ul class="sendings">${all.map((one) => html`<${Sent} key=${one.key} feed=${name} sending=${one} />`)}</ul>`}
  </section>`;
}

/** One file: sent, then followed to its end. */
function Sent({ feed, sending }) {
  const { key, file, sent, state, error, job } = sending;
  const follow = async () => {
    try {
      change(feed, key, { job: await get(`/api/v1/jobs/${job.id}`) });
    } catch {
      // The stream brings it again, or the page says that the daemon is away.
    }
  };
  useTransitions((all) => {
    if (job && all.some((one) => one.job === job.id)) follow();
  }, [job?.id]);
  // What happened between the answer and the listening is not heard of.
  const missed = latest.summary.value?.at;
  useEffect(() => {
    if (job && !FINAL.has(job.phase)) follow();
  }, [job?.id, missed]);
  const ended = job && FINAL.has(job.phase);
  useEffect(() => {
    if (ended) announce(`${file.name}: ${job.phase}`);
  }, [ended]);
  return html`<li>
    <span class="sending-name">${job ? html`<a class="broken" href=${`/jobs/${job.id}`}>${file.name}</a>` : html`<b class="broken">${file.name}</b>`} <span class="quiet nowrap">${size(file.size)}</span></span>
    ${state === 'sending' && html`<progress max=${Math.max(1, file.size)} value=${sent} aria-label=${`Sending ${file.name}`}></progress>
      <span class="quiet" role="status">${sent >= file.size ? 'sent, waiting for the answer' : `${Math.floor((sent / Math.max(1, file.size)) * 100)} %`}</span>`}
    ${state === 'failed' && html`<${Trouble} error=${error} again=${() => send(feed, sending)} />`}
    ${job && html`<span role="status"><${Phase} job=${job} /> ${ended && html`<span class="quiet">after ${span(Date.parse(job.finished_at) - Date.parse(job.created_at))}</span> ${outputLinks(job)}`}
      ${!ended && html`<span class="quiet">${span(Math.max(0, Math.floor((now.value - Date.parse(job.created_at)) / 1000) * 1000)).replace(/^0 ms$/, '0 s').replace(/\.\d/, '')}</span>`}</span>
      ${job.phase === 'failed' && job.error && html`<p class="bad">${job.error.message}</p>`}`}
  </li>`;
}
