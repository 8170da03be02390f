// Pictures of every page, with life in it: `node shoot.mjs FOLDER [WIDTH…]`. With `--docs`, only the one for the README,
// docs/ui.png, after MINUTES of files that come and go.

import { mkdirSync, statSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { browser, open, until, window } from './stand.mjs';

const args = process.argv.slice(2);
const docs = args.includes('--docs');
const [folder = 'shots', ...sizes] = args.filter((one) => !one.startsWith('--'));
const widths = sizes.length > 0 ? sizes.map(Number) : [1280, 768, 360];

const minutes = Number(process.env.MINUTES ?? 10);
const names = /** @type {Record<string, string>} */ (docs ? { quick: 'orders', slow: 'claims', flaky: 'churn', shut: 'fraud', nightly: 'renewals' } : { nightly: 'nightly' });
const stand = await open({ runTime: docs ? '3s' : '400ms', flaky: 5, slowRuns: docs ? 12 : 6, names });
const at = await browser();
try {
  const many = process.env.MANY ?? '60';
  for (let n = 0; n < Number(many); n += 1) stand.drop('quick', `orders-${String(n).padStart(4, '0')}.csv`);
  for (const name of ['north.csv', 'south.csv', 'east.csv', 'west.csv', 'a region with a name that is very much longer than anybody would have thought possible, 2026-11-23.csv']) stand.drop('flaky', name);
  await stand.jobs('quick', Number(many), ['succeeded']);
  await stand.jobs('flaky', 5, ['failed']);
  for (const n of [1, 2, 3, 4, 5, 6, 7, 8, 9]) stand.drop('slow', `batch-${n}.csv`);
  for (const n of [1, 2, 3]) stand.drop('shut', `claims-${n}.csv`);
  for (const n of [1, 2, 3, 4]) stand.drop('nightly', `2026-11-${19 + n}.csv`);
  await stand.ask(`/api/v1/feeds/${names.nightly}/pause`, { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify({ why: 'the new model is being tried' }) });
  await stand.jobs('slow', 6, ['running']);
  await until(async () => (await stand.ask('/api/v1/endpoints')).endpoints.some((/** @type {any} */ one) => one.state === 'suspended'), 'suspended endpoints');
  const failed = (await stand.jobs('flaky', 1, ['failed'])).find((/** @type {any} */ job) => job.name.length > 30);
  const done = (await stand.jobs('quick', 1, ['succeeded']))[0];
  // Nobody can make a past: it has to be waited for.
  const end = performance.now() + (docs ? minutes * 60_000 : 0);
  for (let n = 0; performance.now() < end; n += 1) {
    const burst = 1 + Math.round(3 + 3 * Math.sin(n / 9) + (n % 5));
    for (let one = 0; one < burst; one += 1) stand.drop('quick', `orders-1${String(n).padStart(3, '0')}-${one}.csv`);
    if (n % 3 === 0) stand.drop('flaky', `region-${n}.csv`);
    await new Promise((done) => setTimeout(done, 4000));
  }
  const pages = docs ? { now: '/' } : {
    now: '/', jobs: '/jobs', failures: '/jobs?phase=failed', none: '/jobs?name=nothing', failed: `/jobs/${failed.id}`, job: `/jobs/${done.id}`, running: `/jobs/${(await stand.jobs('slow', 1, ['running']))[0].id}`,
    feed: '/feeds/quick', nightly: '/feeds/nightly', slow: '/feeds/slow', endpoints: '/endpoints', shut: '/endpoints/shut', 'by-hand': '/endpoints/by-hand', missing: '/endpoints/none',
  };
  if (!docs) mkdirSync(folder, { recursive: true });
  for (const width of docs ? [1280] : widths) {
    for (const dark of docs ? [false] : [false, true]) {
      const { page, close } = await window(at, stand, { width, dark, height: docs ? 900 : 800, expected: /./ });
      for (const [name, path] of Object.entries(pages)) {
        await page.goto(path);
        await page.locator('h1').waitFor();
        await page.locator('.connection.is-live').waitFor();
        await page.locator('.pending').first().waitFor({ state: 'detached' });
        if (name === 'job') {
          for (const button of await page.getByRole('button', { name: /^Preview/ }).all()) await button.click();
          await page.locator('.sheet').nth(1).waitFor();
        }
        if (name === 'by-hand') {
          await page.getByRole('button', { name: 'Score' }).click();
          await page.locator('.sheet').first().waitFor();
        }
        if (docs) mkdirSync(new URL('../../docs', import.meta.url), { recursive: true });
        const file = docs ? fileURLToPath(new URL('../../docs/ui.png', import.meta.url)) : `${folder}/${name}-${width}${dark ? '-dark' : ''}.png`;
        await page.screenshot({ path: file, fullPage: !docs });
        if (docs) console.log(`${file}: ${statSync(file).size} bytes`);
      }
      await close().catch((error) => console.error(error.message));
    }
  }
} finally {
  await at.close();
  await stand.close();
}
