// The libraries, under one name each: where they lie is known here only.

import { h } from './vendor/preact.mjs';
import htm from './vendor/htm.mjs';

export { Component, render } from './vendor/preact.mjs';
export { useEffect, useLayoutEffect, useMemo, useRef, useState } from './vendor/hooks.mjs';
export { batch, computed, effect, signal, useComputed, useSignal } from './vendor/signals.mjs';
export { default as uPlot } from './vendor/uplot.mjs';

/** Templates: html`<p class=${kind}>…</p>`. */
export const html = htm.bind(h);
