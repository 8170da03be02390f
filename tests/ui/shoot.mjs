// Pictures of every page, with life in it: `node shoot.mjs FOLDER [WIDTH…]`; with `--docs`, only docs/ui.png.

import { mkdirSync, statSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { browser, open, until, window } from './stand.mjs';

const args = process.argv.slice(2);
const docs = args.includes('--docs');
const [folder = 'shots', ...sizes] = args.filter((one) => !one.startsWith('--'));
const widths = sizes.length > 0 ? sizes.map(Number) : [1280, 768, 360];

const stand = await open({ runTime: '400ms', flaky: 5, slowRuns: 6 });
const at = await browser();
try {
  const url = process.env.STAND_URL ?? stand.url;
  const { many = '120' } = process.env;
  for (let n = 0; n < Number(many); n += 1) stand.drop('quick', `orders-${String(n).padStart(4, '0')}.csv`);
  for (const name of ['north.csv', 'south.csv', 'east.csv', 'west.csv', 'a region with a name that is very much longer than anybody would have thought possible, 2026-11-23.csv']) stand.drop('flaky', name);
  await stand.jobs('quick', Number(many), ['succeeded']);
  await stand.jobs('flaky', 5, ['failed']);
  for (const n of [1, 2, 3, 4, 5, 6, 7, 8, 9]) stand.drop('slow', `batch-${n}.csv`);
  for (const n of [1, 2, 3]) stand.drop('shut', `claims-${n}.csv`);
  for (const n of [1, 2, 3, 4]) stand.drop('nightly', `2026-11-${19 + n}.csv`);
  await stand.ask('/api/v1/feeds/nightly/pause', { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify({ why: 'the new model is being tried' }) });
  await stand.jobs('slow', 6, ['running']);
  await until(async () => (await stand.ask('/api/v1/endpoints')).endpoints.some((/** @type {any} */ one) => one.state === 'suspended'), 'suspended endpoints');
  const failed = (await stand.jobs('flaky', 1, ['failed'])).find((/** @type {any} */ job) => job.name.length > 30);
  const done = (await stand.jobs('quick', 1, ['succeeded']))[0];
  const pages = docs ? { now: '/' } : {
    now: '/', jobs: '/jobs', failures: '/jobs?phase=failed', none: '/jobs?name=nothing', failed: `/jobs/${failed.id}`, job: `/jobs/${done.id}`, running: `/jobs/${(await stand.jobs('slow', 1, ['running']))[0].id}`,
    feed: '/feeds/quick', nightly: '/feeds/nightly', slow: '/feeds/slow', endpoints: '/endpoints', shut: '/endpoints/shut', 'by-hand': '/endpoints/by-hand', missing: '/endpoints/none',
  };
  if (!docs) mkdirSync(folder, { recursive: true });
  for (const width of docs ? [1280] : widths) {
    for (const dark of docs ? [false] : [false, true]) {
      const { page, close } = await window(at, { url }, { width, dark, height: docs ? 900 : 800, expected: /./ });
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
