// How many jobs ended when: bars of those that succeeded, and above them those that failed.

import { clock, count, soon } from './format.js';
import { html, uPlot, useEffect, useRef } from './vendor.js';

/** @param {{ points: any[], step: number, label: string }} props */
export function Throughput({ points, step, label }) {
  const at = useRef(/** @type {HTMLDivElement | null} */ (null));
  const plot = useRef(/** @type {any} */ (null));
  const data = useRef(/** @type {any} */ (null));
  data.current = stacked(points);

  useEffect(() => {
    const home = /** @type {HTMLDivElement} */ (at.current);
    const draw = () => {
      plot.current?.destroy();
      plot.current = new uPlot(options(home, step), data.current, home);
    };
    draw();
    const fit = new ResizeObserver(() => plot.current?.setSize({ width: home.clientWidth, height: HEIGHT }));
    fit.observe(home);
    // Canvases know no variables: they are drawn anew in the other colours.
    const dark = matchMedia('(prefers-color-scheme: dark)');
    dark.addEventListener('change', draw);
    addEventListener('themechange', draw);
    return () => {
      fit.disconnect();
      dark.removeEventListener('change', draw);
      removeEventListener('themechange', draw);
      plot.current?.destroy();
      plot.current = null;
    };
  }, [step]);

  useEffect(() => {
    plot.current?.setData(data.current);
  }, [points]);

  return html`<div class="chart" role="img" aria-label=${label} ref=${at}></div>`;
}

const HEIGHT = 170;

/** Series are drawn one over the other: the taller first. */
function stacked(/** @type {any[]} */ points) {
  const times = points.map((point) => Date.parse(point.at) / 1000);
  const succeeded = points.map((point) => point.succeeded);
  const other = points.map((point) => point.succeeded + point.failed);
  return [times, other, succeeded];
}

function options(/** @type {HTMLElement} */ home, /** @type {number} */ step) {
  const style = getComputedStyle(home);
  const colour = (/** @type {string} */ name) => style.getPropertyValue(name).trim();
  const bars = uPlot.paths.bars?.({ size: [0.8, 24], gap: 1 });
  const axis = { stroke: colour('--quiet'), grid: { stroke: colour('--line'), width: 1 }, ticks: { show: false }, font: '12px system-ui, sans-serif' };
  const series = (/** @type {string} */ label, /** @type {string} */ fill) => ({ label, fill: colour(fill), stroke: colour(fill), width: 0, paths: bars, points: { show: false } });
  return {
    width: home.clientWidth,
    height: HEIGHT,
    legend: { show: false },
    cursor: { show: true, y: false, points: { show: false }, drag: { x: false, y: false } },
    // Half a bar more on each side.
    scales: { x: { time: true, range: (/** @type {any} */ _, /** @type {number} */ least, /** @type {number} */ most) => /** @type {[number, number]} */ ([least - step / 2, most + step / 2]) }, y: { range: (/** @type {any} */ _, /** @type {number} */ __, /** @type {number} */ most) => /** @type {[number, number]} */ ([0, Math.max(4, most * 1.1)]) } },
    axes: [{ ...axis, size: 28, space: 70, values: (/** @type {any} */ _, /** @type {number[]} */ times) => times.map((time) => clock(time * 1000)) }, { ...axis, size: 44, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 50000, 100000], values: (/** @type {any} */ _, /** @type {number[]} */ values) => values.map(count) }],
    series: [{}, series('failed', '--bad-bar'), series('succeeded', '--good-bar')],
    hooks: { setCursor: [told] },
  };
}

/** What the bar under the pointer stands for. */
function told(/** @type {any} */ plot) {
  const { idx } = plot.cursor;
  const [times, all, succeeded] = plot.data;
  plot.root.parentElement.title = idx === null || idx === undefined || times[idx] === undefined ? '' :
    `${soon(times[idx] * 1000)}: ${count(succeeded[idx])} succeeded, ${count(all[idx] - succeeded[idx])} failed`;
}
