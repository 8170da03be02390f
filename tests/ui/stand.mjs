// What the tests look at: sandboxes as the remote side, and a daemon that is asked by a token, all by the real program,
// each on a port of its own, in a folder of their own; and a browser that notes whatever it should not have to.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { chromium } from 'playwright-core';

const program = process.env.SCORELINE ?? '../../target/debug/scoreline';
export const TOKENS = { operate: 'a-token-that-may-work', read: 'a-token-that-may-look' };

/** Starts the program and waits for what it says; whatever it says is told when it doesn't come. */
async function start(/** @type {string[]} */ args, /** @type {'stdout' | 'stderr'} */ from, /** @type {RegExp} */ wanted) {
  const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'pipe'] });
  let said = '';
  let all = '';
  const found = await new Promise((done, failed) => {
    const hear = (/** @type {Buffer} */ text, /** @type {boolean} */ counts) => {
      if (all.length < 200_000) all += text;
      if (!counts) return;
      said += text;
      const match = wanted.exec(said);
      if (match) {
        said = '';
        done(match);
      }
    };
    child.stdout.on('data', (text) => hear(text, from === 'stdout'));
    child.stderr.on('data', (text) => hear(text, from === 'stderr'));
    child.on('error', failed);
    child.on('exit', (code) => failed(new Error(`${args[0]} ended with ${code}:\n${all}`)));
  });
  const stop = () => new Promise((done) => {
    if (child.exitCode !== null) return done(undefined);
    child.on('exit', done);
    child.kill('SIGKILL');
  });
  return { found: /** @type {RegExpExecArray} */ (found), stop };
}

/** A sandbox, under a name: its part of the config. */
async function sandbox(/** @type {string} */ name, /** @type {string[]} */ args) {
  const { found, stop } = await start(['sandbox', '--listen', '127.0.0.1:0', ...args], 'stdout', /^[^]*api_key = .*\n/);
  const config = found[0].replaceAll('.sandbox]', `.${name}]`);
  const url = /** @type {RegExpExecArray} */ (/^url = "(.*)"/m.exec(config))[1];
  return { config: `${config}poll = { first = "100ms", factor = 1.2, max = "500ms" }\n`, url, stop };
}

/**
 * A daemon with feeds to each kind of remote side: `quick`; `slow`, whose runs don't end; `flaky`, whose first runs fail;
 * `nightly`, which has a schedule; `shut`, whose key is refused. `names` are other ones for feeds and endpoints.
 * @param {{ runTime?: string, flaky?: number, slowRuns?: number, names?: Record<string, string> }} [how]
 */
export async function open({ runTime = '150ms', flaky = 1, slowRuns = 10, names = {} } = {}) {
  const as = (/** @type {string} */ name) => names[name] ?? name;
  const root = mkdtempSync(join(tmpdir(), 'scoreline-ui-'));
  const remote = {
    quick: await sandbox(as('quick'), ['--run-time', runTime]),
    slow: await sandbox(as('slow'), ['--run-time', '1h']),
    flaky: await sandbox(as('flaky'), ['--run-time', runTime, '--fault', `run=fail:*${flaky}`]),
  };
  const endpoint = (/** @type {string} */ name, /** @type {string} */ kind, /** @type {string} */ url, key = 'sandbox-key') =>
    `[endpoints.${as(name)}]\nkind = "${kind}"\nurl = "${url}"\napi_key = "${key}"\n`;
  const folder = (/** @type {string} */ feed, /** @type {string} */ kind) => {
    const path = join(root, feed, kind);
    mkdirSync(path, { recursive: true });
    return path;
  };
  const feed = (/** @type {string} */ name, more = '', /** @type {string} */ to = name, storage = to) => `[feeds.${as(name)}]
endpoint = "${as(to)}"
storage = "${as(storage)}"
outputs = { output1 = "{stem}.scores.csv" }
${more}
watch.folder = "${folder(name, 'in')}"
watch.settle = "50ms"
duplicates.then = "rerun"
deliver.folder = "${folder(name, 'out')}"
source.archive = "${folder(name, 'archive')}"
source.failed = "${folder(name, 'failed')}"
`;
  const file = join(root, 'scoreline.toml');
  const write = (/** @type {number} */ at) => writeFileSync(file, [
    `[node]\nname = "host-1"\nstate_dir = "${root}/state"\n[http]\nlisten = "127.0.0.1:${at}"`,
    `tokens = [{ role = "operate", secret = "${TOKENS.operate}" }, { role = "read", secret = "${TOKENS.read}" }]`,
    remote.quick.config, remote.slow.config, `max_in_flight = ${slowRuns}`, remote.flaky.config,
    endpoint('shut', 'bes', remote.quick.url, 'a-key-that-is-not-theirs'),
    endpoint('by-hand', 'rrs', remote.quick.url.replace('/jobs?api-version=2.0', '/execute?api-version=2.0&details=true')),
    feed('quick'), feed('slow'), feed('flaky'), feed('shut', '', 'shut', 'quick'),
    feed('nightly', 'schedule = { cron = "0 2 * * *", timezone = "Europe/Berlin" }', 'quick'),
  ].join('\n'));
  write(0);
  const serve = () => start(['--config', file, 'serve'], 'stderr', /127\.0\.0\.1:(\d+)/);
  let daemon = await serve();
  const at = Number(daemon.found[1]);
  // Started again, it is where it was.
  write(at);
  const url = `http://127.0.0.1:${at}`;

  const ask = async (/** @type {string} */ path, /** @type {RequestInit} */ init = {}) => {
    const answer = await fetch(url + path, { ...init, headers: { Authorization: `Bearer ${TOKENS.operate}`, ...init.headers } });
    assert.ok(answer.ok, `${path}: ${answer.status} ${answer.ok ? '' : await answer.text()}`);
    return answer.json();
  };
  return {
    url,
    root,
    ask,
    /** Puts a file into a feed's folder, whole. */
    drop(/** @type {string} */ to, /** @type {string} */ name, text = 'Col1,Col2\n1,This is a good day\n2,A wonderful book\n') {
      const part = join(root, to, `.${name}.part`);
      writeFileSync(part, text);
      renameSync(part, join(root, to, 'in', name));
    },
    /** Waits until the feed has so many jobs in one of the phases. */
    async jobs(/** @type {string} */ of, /** @type {number} */ n, /** @type {string[]} */ phases) {
      return until(async () => {
        const { jobs } = await ask(`/api/v1/jobs?feed=${as(of)}&limit=1000`);
        const found = jobs.filter((/** @type {any} */ job) => phases.includes(job.phase) && !job.held);
        return found.length >= n ? found : null;
      }, `${n} jobs of ${of} that are ${phases.join(' or ')}`);
    },
    stopDaemon: () => daemon.stop(),
    async startDaemon() {
      daemon = await serve();
    },
    async close() {
      await daemon.stop();
      for (const side of Object.values(remote)) await side.stop();
      rmSync(root, { recursive: true, force: true });
    },
  };
}

/** Asks until there is an answer; a minute is more than any has to take. */
export async function until(/** @type {() => Promise<any>} */ ask, /** @type {string} */ what) {
  const end = performance.now() + 60_000;
  for (;;) {
    const found = await ask();
    if (found) return found;
    if (performance.now() > end) throw new Error(`there never were ${what}`);
    await new Promise((done) => setTimeout(done, 50));
  }
}

export function browser() {
  return chromium.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    args: ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'],
  });
}

/**
 * A window that somebody is signed in to. `complaints` is what went wrong in it: errors in the console, which refused
 * scripts and styles are too, errors of scripts, and requests that go elsewhere. `expected` are those that a test causes.
 * @param {import('playwright-core').Browser} at
 * @param {{ url: string }} stand
 * @param {{ role?: 'operate' | 'read' | null, width?: number, height?: number, dark?: boolean, expected?: RegExp }} [how]
 */
export async function window(at, stand, { role = 'operate', width = 1280, height = 900, dark = false, expected = /^$/ } = {}) {
  const context = await at.newContext({
    baseURL: stand.url,
    viewport: { width, height },
    colorScheme: dark ? 'dark' : 'light',
    locale: 'en-GB',
    timezoneId: 'Europe/Lisbon',
    reducedMotion: 'reduce',
  });
  context.setDefaultTimeout(20_000);
  /** @type {string[]} */
  const complaints = [];
  const page = await context.newPage();
  page.on('console', (message) => {
    const text = `${message.type()}: ${message.text()} ${message.location().url}`;
    if (message.type() === 'error' && !expected.test(text)) complaints.push(text);
  });
  page.on('pageerror', (error) => complaints.push(String(error.stack)));
  page.on('request', (request) => {
    const { protocol, hostname } = new URL(request.url());
    if (hostname !== '127.0.0.1' && protocol !== 'data:' && protocol !== 'blob:') complaints.push(`a request left: ${request.url()}`);
  });
  if (role) {
    const answer = await context.request.post('/api/v1/session', { data: { token: TOKENS[role] }, headers: { Origin: stand.url } });
    assert.equal(answer.status(), 200, await answer.text());
  }
  return {
    page,
    complaints,
    async close() {
      await context.close();
      assert.deepEqual(complaints, []);
    },
  };
}
