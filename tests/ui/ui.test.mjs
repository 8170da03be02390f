// The web UI in a real browser, against a real daemon and its sandbox. Nothing waits for a time: each step waits for what
// it is about.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { after, before, test } from 'node:test';
import { AxeBuilder } from '@axe-core/playwright';
import { TOKENS, browser, open, window } from './stand.mjs';

/** @type {Awaited<ReturnType<typeof open>>} */
let stand;
/** @type {import('playwright-core').Browser} */
let at;
/** A job that nobody retries. */
/** @type {any} */
let failed;

before(async () => {
  stand = await open({ flaky: 2 });
  stand.drop('flaky', 'stays failed.csv');
  [failed] = await stand.jobs('flaky', 1, ['failed']);
  at = await browser();
});

after(async () => {
  await at?.close();
  await stand?.close();
});

const CSV = 'Col1,Col2\n1,This is a good day\n2,A wonderful book\n';
const file = (/** @type {string} */ name, text = CSV) => ({ name, mimeType: 'text/csv', buffer: Buffer.from(text) });

/** @typedef {import('playwright-core').Page} Page */

/** Goes to a page and waits until it is live and has loaded. */
async function go(/** @type {Page} */ page, /** @type {string} */ path) {
  await page.goto(path);
  await page.locator('.connection.is-live').waitFor();
  await settled(page);
}

async function settled(/** @type {Page} */ page) {
  await page.locator('h1').waitFor();
  await page.waitForFunction(() => document.querySelectorAll('.pending').length === 0);
}

const row = (/** @type {Page} */ page, /** @type {string} */ name) => page.getByRole('row', { name });

test('a wrong token is refused in words, the right one opens the page that was asked for, and signing out closes it', async () => {
  const { page, close } = await window(at, stand, { role: null, expected: /status of 401/ });
  await page.goto('/jobs?feed=quick');
  await page.getByLabel('Token').fill('not a token of theirs');
  await page.getByRole('button', { name: 'Sign in' }).click();
  await page.getByRole('alert').waitFor();
  await page.getByLabel('Token').fill(TOKENS.operate);
  await page.getByRole('button', { name: 'Sign in' }).click();
  await page.getByRole('heading', { name: 'Jobs', level: 1 }).waitFor();
  assert.equal(new URL(page.url()).search, '?feed=quick');
  assert.equal(await page.evaluate(() => document.cookie), '', 'no script can read the cookie');
  await page.getByRole('button', { name: 'Sign out' }).click();
  await page.getByLabel('Token').waitFor();
  await page.reload();
  await page.getByLabel('Token').waitFor();
  await close();
});

test('files that are dropped onto a feed are sent, followed to their end, looked into and downloaded', async () => {
  const { page, close } = await window(at, stand);
  await go(page, '/feeds/quick');
  await page.locator('input[type=file]').setInputFiles([file('sent one.csv'), file('sent two.csv')]);
  const sent = page.locator('.sendings li');
  for (const name of ['sent one', 'sent two']) {
    await sent.filter({ hasText: name }).getByText('succeeded').waitFor();
    await sent.filter({ hasText: name }).getByRole('link', { name: `${name}.scores.csv` }).waitFor();
  }
  // With the mouse, too.
  const dropped = await page.evaluateHandle((text) => {
    const data = new DataTransfer();
    data.items.add(new File([text], 'dropped.csv', { type: 'text/csv' }));
    return data;
  }, CSV);
  await page.locator('.drop').dispatchEvent('drop', { dataTransfer: dropped });
  await sent.filter({ hasText: 'dropped.csv' }).getByText('succeeded').waitFor();

  await sent.getByRole('link', { name: 'sent one.csv', exact: true }).click();
  await page.getByRole('heading', { name: 'sent one.csv', level: 1 }).waitFor();
  assert.equal(await page.title(), 'sent one.csv · scoreline');
  await page.getByRole('button', { name: 'Preview sent one.csv' }).click();
  await page.getByRole('region', { name: 'Preview of sent one.csv' }).getByRole('cell', { name: 'A wonderful book' }).waitFor();
  await page.getByRole('button', { name: 'Preview sent one.scores.csv' }).click();
  await page.getByRole('region', { name: 'Preview of sent one.scores.csv' }).getByRole('columnheader').first().waitFor();
  const coming = page.waitForEvent('download');
  await page.getByRole('link', { name: 'Download sent one.csv' }).click();
  const download = await coming;
  assert.equal(download.suggestedFilename(), 'sent one.csv');
  assert.equal(readFileSync(await download.path(), 'utf8'), CSV);
  for (const phase of ['queued', 'uploaded', 'submitted', 'running', 'scored', 'delivered', 'succeeded']) {
    await page.locator('.way').getByText(phase, { exact: true }).waitFor();
  }
  await close();
});

test('a job that failed shows the words of the remote, and is retried to its end without a reload', async () => {
  const { page, close } = await window(at, stand);
  stand.drop('flaky', 'fails once.csv');
  const job = (await stand.jobs('flaky', 2, ['failed'])).find((/** @type {any} */ one) => one.name === 'fails once.csv');
  await go(page, `/jobs/${job.id}`);
  await page.getByRole('heading', { name: 'Why it failed' }).waitFor();
  assert.equal(await page.locator('.remote blockquote').innerText(), job.error.message);
  await page.getByRole('button', { name: 'Retry' }).click();
  await page.locator('.title').getByText('succeeded').waitFor();
  await page.getByRole('link', { name: 'Download fails once.scores.csv' }).waitFor();
  await close();
});

test('a running job is cancelled, and many are by a question that says how many', async () => {
  const { page, close } = await window(at, stand);
  for (const n of [1, 2, 3, 4, 5]) stand.drop('slow', `endless ${n}.csv`);
  const [one] = await stand.jobs('slow', 5, ['running']);
  await go(page, `/jobs/${one.id}`);
  await page.getByRole('button', { name: 'Cancel' }).click();
  await page.locator('.title').getByText('cancelled').waitFor();

  await go(page, '/jobs?feed=slow&phase=running');
  await page.waitForFunction(() => document.querySelectorAll('tbody tr').length === 4);
  await page.getByLabel('Select endless', { exact: false }).first().check();
  await page.getByText('1 job selected').waitFor();
  await page.getByLabel('Select all on this page').check();
  await page.getByText('4 jobs selected').waitFor();
  await page.getByRole('button', { name: 'Cancel…' }).click();
  const dialog = page.getByRole('dialog', { name: 'Cancel 4 jobs?' });
  await dialog.getByRole('button', { name: 'Leave them' }).click();
  await dialog.waitFor({ state: 'detached' });
  await page.getByRole('button', { name: 'Cancel…' }).click();
  await dialog.getByRole('button', { name: 'Cancel 4 jobs' }).click();
  await page.getByText('Done: 4 noted.').waitFor();
  await page.getByRole('button', { name: 'Close' }).last().click();
  await stand.jobs('slow', 5, ['cancelled']);
  await close();
});

test('all that match a filter are taken in one go, and those that refuse are told with their reason', async () => {
  const { page, close } = await window(at, stand);
  for (let n = 0; n < 55; n += 1) stand.drop('quick', `bulk ${n}.csv`);
  await stand.jobs('quick', 55, ['succeeded']);
  await go(page, '/jobs?name=bulk+&phase=succeeded');
  await page.getByText('55 jobs', { exact: true }).waitFor();
  await page.getByLabel('Select all on this page').check();
  await page.getByText('50 jobs selected').waitFor();
  await page.getByRole('button', { name: 'Select all that match' }).click();
  await page.getByRole('button', { name: 'Retry…' }).click();
  await page.getByRole('button', { name: 'Retry 55 jobs' }).click();
  await page.getByText('Done: 0 noted, 55 refused.').waitFor();
  await page.getByRole('region', { name: 'What was refused' }).getByText('succeeded').first().waitFor();
  await close();
});

test('a feed is paused with a reason, resumed, and run now', async () => {
  const { page, close } = await window(at, stand);
  await go(page, '/feeds/nightly');
  await page.getByRole('button', { name: 'Pause…' }).click();
  await page.getByLabel('Why').fill('the model is being trained');
  await page.getByRole('dialog').getByRole('button', { name: 'Pause', exact: true }).click();
  await page.getByText('the model is being trained').waitFor();
  await page.getByRole('button', { name: 'Resume' }).click();
  await page.getByRole('button', { name: 'Pause…' }).waitFor();
  assert.equal((await stand.ask('/api/v1/feeds')).feeds.find((/** @type {any} */ feed) => feed.name === 'nightly').paused, null);
  stand.drop('nightly', 'for the night.csv');
  await page.getByRole('heading', { name: 'In the folder' }).waitFor();
  await page.getByText('for the night.csv').waitFor();
  await page.getByRole('button', { name: 'Run now' }).click();
  await stand.jobs('nightly', 1, ['succeeded']);
  await page.locator('.rows').getByRole('link', { name: 'for the night.csv' }).waitFor();
  await page.getByText('Europe/Berlin').waitFor();
  await close();
});

test('filters and pages are in the address, and the back button goes through them', async () => {
  const { page, close } = await window(at, stand);
  await go(page, '/jobs');
  const size = () => page.locator('tbody tr').count();
  await page.getByLabel('Feed').selectOption('quick');
  await page.waitForURL('**/jobs?feed=quick');
  await page.getByLabel('Name').fill('BULK 1');
  await page.waitForURL('**/jobs?feed=quick&name=BULK+1');
  await page.waitForFunction(() => document.querySelectorAll('tbody tr').length === 11);
  await page.reload();
  await settled(page);
  assert.equal(await page.getByLabel('Name').inputValue(), 'BULK 1');
  await page.waitForFunction(() => document.querySelectorAll('tbody tr').length === 11);
  await page.goBack();
  await page.waitForURL('**/jobs?feed=quick');
  await page.waitForFunction(() => document.querySelectorAll('tbody tr').length === 50);
  assert.equal(await page.getByLabel('Name').inputValue(), '');
  const first = await page.locator('[data-row]').first().innerText();
  await page.getByRole('button', { name: 'Older →' }).click();
  await page.waitForURL('**cursor=**');
  await page.waitForFunction((text) => document.querySelector('[data-row]')?.textContent !== text, first);
  assert.ok(await size() > 0);
  await page.getByRole('button', { name: '← Newer' }).click();
  await page.waitForFunction((text) => document.querySelector('[data-row]')?.textContent === text, first);
  await page.goBack();
  await page.waitForURL('**cursor=**');
  await close();
});

test('what happens is shown as it does, but not under the pointer, and not while paused', async () => {
  const { page, close } = await window(at, stand);
  await go(page, '/jobs?feed=quick');
  await page.mouse.move(0, 0);
  stand.drop('quick', 'while nobody looks.csv');
  await row(page, 'while nobody looks.csv').getByText('succeeded').waitFor();

  await page.locator('tbody tr').nth(3).hover();
  stand.drop('quick', 'under the pointer.csv');
  await page.getByRole('button', { name: '1 new' }).waitFor();
  assert.equal(await row(page, 'under the pointer.csv').count(), 0);
  await page.mouse.move(0, 0);
  await row(page, 'under the pointer.csv').waitFor();

  await page.getByRole('button', { name: 'Pause', exact: true }).click();
  await page.locator('.connection.is-paused').waitFor();
  stand.drop('quick', 'while it is paused.csv');
  await stand.jobs('quick', 58, ['succeeded']);
  assert.equal(await row(page, 'while it is paused.csv').count(), 0);
  await page.getByRole('button', { name: 'Go on' }).click();
  await page.mouse.move(0, 0);
  await row(page, 'while it is paused.csv').waitFor();
  await close();
});

test('everything is reached by keys', async () => {
  const { page, close } = await window(at, stand);
  await go(page, '/');
  await page.keyboard.press('?');
  await page.getByRole('dialog', { name: 'Keys' }).waitFor();
  await page.keyboard.press('Escape');
  await page.getByRole('dialog').waitFor({ state: 'detached' });
  await page.keyboard.press('g');
  await page.keyboard.press('e');
  await page.waitForURL('**/endpoints');
  await page.getByRole('heading', { name: 'Endpoints', level: 1 }).waitFor();
  // The focus goes to the heading.
  await page.waitForFunction(() => document.activeElement?.tagName === 'H1');
  await page.keyboard.press('g');
  await page.keyboard.press('j');
  await page.waitForURL('**/jobs');
  await page.keyboard.press('/');
  await page.waitForFunction(() => document.activeElement?.id === 'search');
  await page.keyboard.type('bulk 7');
  await page.waitForURL('**/jobs?name=bulk+7');
  await page.waitForFunction(() => document.querySelectorAll('tbody tr').length === 1);
  await page.keyboard.press('Escape');
  await page.keyboard.press('j');
  await page.keyboard.press('Enter');
  await page.getByRole('heading', { name: 'bulk 7.csv', level: 1 }).waitFor();
  await page.keyboard.press('g');
  await page.keyboard.press('n');
  await page.getByRole('heading', { name: 'Now', level: 1 }).waitFor();
  await close();
});

test('a request/response service is called by hand', async () => {
  const { page, close } = await window(at, stand, { expected: /status of (400|404|422|502)/ });
  await go(page, '/endpoints/by-hand');
  await page.getByRole('button', { name: 'Score' }).click();
  await page.getByRole('heading', { name: 'Answer' }).waitFor();
  await page.getByRole('region', { name: 'Output output1' }).getByRole('columnheader').first().waitFor();
  await page.getByLabel('Input', { exact: true }).fill('no-such-input');
  await page.getByRole('button', { name: 'Score' }).click();
  await page.getByRole('alert').waitFor();
  await close();
});

test('whoever may only look changes nothing, and is told why', async () => {
  const { page, close } = await window(at, stand, { role: 'read' });
  await go(page, '/feeds/quick');
  await page.getByText('read only').waitFor();
  const run = page.getByRole('button', { name: 'Run now' });
  assert.equal(await run.getAttribute('aria-disabled'), 'true');
  assert.match(await run.getAttribute('title') ?? '', /may only look/);
  assert.equal(await page.locator('input[type=file]').count(), 0);
  await close();
});

test('a daemon that is started again is found again, and a page that is not there says so', async () => {
  const { page, close } = await window(at, stand, { expected: /ERR_|status of 5|EventSource/ });
  await go(page, '/jobs?feed=quick');
  await stand.stopDaemon();
  await page.getByText('The daemon does not answer at the moment.').waitFor();
  await stand.startDaemon();
  await page.locator('.connection.is-live').waitFor();
  stand.drop('quick', 'after it was away.csv');
  await row(page, 'after it was away.csv').waitFor();
  await close();
});

for (const dark of [false, true]) {
  test(`no page has a serious fault of accessibility, or is wider than its window (${dark ? 'dark' : 'light'})`, async () => {
    stand.drop('shut', 'refused.csv');
    stand.drop('slow', `a name that is so long that it has to be broken somewhere, wherever that may be ${dark}.csv`);
    stand.drop('quick', `is scored ${dark}.csv`);
    const [done] = await stand.jobs('quick', 1, ['succeeded']);
    const [long] = await stand.jobs('slow', 1, ['running']);
    const { page, close } = await window(at, stand, { dark, expected: /status of (400|404)/ });
    const pages = ['/', '/jobs', '/jobs?name=nothing+has+this', `/jobs/${done.id}`, `/jobs/${failed.id}`, `/jobs/${long.id}`, '/feeds/quick', '/feeds/nightly', '/endpoints', '/endpoints/shut', '/endpoints/by-hand', '/endpoints/none', '/jobs/none'];
    for (const path of pages) {
      await go(page, path);
      for (const width of [1280, 768, 360]) {
        await page.setViewportSize({ width, height: 800 });
        const over = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
        assert.equal(over, 0, `${path} is ${over} px too wide at ${width} px`);
        if (width === 768) continue;
        await accessible(page, `${path} at ${width} px`);
      }
      await page.setViewportSize({ width: 1280, height: 800 });
    }
    await go(page, '/jobs?feed=quick');
    await page.getByLabel('Select all on this page').check();
    await page.getByRole('button', { name: 'Cancel…' }).click();
    await page.getByRole('dialog').waitFor();
    await accessible(page, 'the question');
    await close();
    const door = await window(at, stand, { dark, role: null, expected: /status of 401/ });
    await door.page.goto('/');
    await door.page.getByLabel('Token').waitFor();
    await accessible(door.page, 'the sign-in form');
    await door.close();
  });
}

async function accessible(/** @type {Page} */ page, /** @type {string} */ where) {
  const { violations } = await new AxeBuilder({ page }).analyze();
  const bad = violations.filter((one) => one.impact === 'serious' || one.impact === 'critical');
  assert.deepEqual(bad.map((one) => `${one.id}: ${one.nodes.map((node) => node.html).join(' ')}`), [], where);
}
