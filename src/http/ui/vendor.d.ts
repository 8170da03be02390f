// The types of vendor.js, from the packages themselves; not served.
import type { ComponentChild } from 'preact';
export { Component, render } from 'preact';
export { useEffect, useLayoutEffect, useMemo, useRef, useState } from 'preact/hooks';
export { batch, computed, effect, signal, useComputed, useSignal } from '@preact/signals';
export { default as uPlot } from 'uplot';
export function html(strings: TemplateStringsArray, ...values: unknown[]): any;
export type Child = ComponentChild;
