// Reads what is in this folder, says what is wrong with it, and writes TypeScript that compiles if the dashboards are of
// the types of Grafana's schema: `node check.mjs FOLDER TYPES`.
import { readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { defaultDashboard } from '@grafana/schema';
import { parse } from 'yaml';

const [folder, types] = process.argv.slice(2);
const wrong = [];
const must = (holds, text) => holds || wrong.push(text);
const read = (file) => readFileSync(`${folder}/${file}`, 'utf8');

// The kinds of panels that are in use, by the folder of their types.
const PLUGINS = { heatmap: 'Heatmap', stat: 'Stat', 'state-timeline': 'StateTimeline', table: 'Table', timeseries: 'TimeSeries' };
const DATASOURCE = { type: 'prometheus', uid: '${datasource}' };
const VARIABLES = ['datasource', 'site', 'node', 'feed', 'endpoint', 'runbooks'];
// Of a query to Prometheus: Grafana has no types for them outside its own plugin.
const QUERY = ['refId', 'datasource', 'editorMode', 'expr', 'legendFormat', 'range', 'instant', 'format'];

const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);
const overlap = (a, b) => a.x < b.x + b.w && b.x < a.x + a.w && a.y < b.y + b.h && b.y < a.y + a.h;

function dashboard(file) {
  const board = JSON.parse(read(`dashboards/${file}`));
  const here = (text) => `dashboards/${file}: ${text}`;
  must(board.uid === `scoreline-${file.replace('.json', '')}`, here(`its uid is ${board.uid}: links go by it`));
  must(board.schemaVersion === defaultDashboard.schemaVersion, here(`schemaVersion is not ${defaultDashboard.schemaVersion}`));
  must(!('__inputs' in board) && !('id' in board), here('it is an export, with __inputs or id'));
  must(board.title && board.description && board.tags.includes('scoreline'), here('title, description or the tag scoreline is missing'));
  must(same(board.templating.list.map((variable) => variable.name), VARIABLES), here(`its variables are not ${VARIABLES}`));
  for (const { name, type, datasource, label } of board.templating.list) {
    must(label, here(`the variable ${name} has no label`));
    must(type !== 'query' || same(datasource, DATASOURCE), here(`the variable ${name} is not asked of \${datasource}`));
  }
  for (const { name, builtIn, datasource, target } of board.annotations.list) {
    if (builtIn) continue;
    must(same(datasource, DATASOURCE), here(`the annotation ${name} is not asked of \${datasource}`));
    checkQuery(target, (text) => here(`annotation ${name}: ${text}`));
  }
  const ids = board.panels.map((panel) => panel.id);
  must(new Set(ids).size === ids.length, here('two panels have the same id'));
  board.panels.forEach((panel, n) => checkPanel(panel, board.panels.slice(0, n), (text) => here(`panel "${panel.title}": ${text}`)));
  typed(file.replace('.json', ''), board);
  console.log(`ok: dashboards/${file}: ${board.panels.filter((panel) => panel.type !== 'row').length} panels`);
}

function checkPanel(panel, before, here) {
  const { x, y, w, h } = panel.gridPos;
  must(x >= 0 && y >= 0 && w > 0 && h > 0 && x + w <= 24, here('it is beside the grid, which is 24 wide'));
  const under = before.find((other) => overlap(panel.gridPos, other.gridPos));
  must(!under, here(`it lies over "${under?.title}"`));
  must(panel.title, here(`it has no title (id ${panel.id})`));
  if (panel.type === 'row') return;
  must(panel.type in PLUGINS, here(`check.mjs knows no types for "${panel.type}"`));
  must(panel.description?.endsWith('.'), here('its description is missing, or no sentence'));
  must(panel.fieldConfig.defaults.unit, here('it has no unit'));
  must(same(panel.datasource, DATASOURCE), here('its data source is not ${datasource}'));
  must(panel.targets.length > 0, here('it asks nothing'));
  const refs = panel.targets.map((target) => target.refId);
  must(new Set(refs).size === refs.length, here('two of its queries have the same refId'));
  panel.targets.forEach((target) => checkQuery(target, here));
}

function checkQuery(target, here) {
  must(same(target.datasource, DATASOURCE), here(`query ${target.refId} is not asked of \${datasource}`));
  must(target.range !== target.instant, here(`query ${target.refId} is neither range nor instant, or both`));
  must(/instance=~"\$node"/.test(target.expr), here(`query ${target.refId} asks other sites too`));
  const odd = Object.keys(target).filter((key) => !QUERY.includes(key));
  must(odd.length === 0, here(`query ${target.refId} has unknown keys: ${odd}`));
}

// A value that is written where a type is wanted is held against it, unknown keys too.
function typed(name, board) {
  const used = [...new Set(board.panels.map((panel) => panel.type))].filter((type) => type in PLUGINS);
  const lines = [
    "import type { Dashboard, Panel, RowPanel } from '@grafana/schema';",
    ...used.map((type) => {
      const at = `@grafana/schema/dist/esm/raw/composable/${type.replace('-', '')}/panelcfg/x/${PLUGINS[type]}PanelCfg_types.gen`;
      return `import type * as ${PLUGINS[type]} from '${at}';`;
    }),
    // In JSON an enum is its value.
    'type Json<T> = T extends string ? `${T}` : T extends number ? `${T}` extends `${infer N extends number}` ? N : T',
    '  : T extends (infer U)[] ? Json<U>[] : T extends object ? { [K in keyof T]: Json<T[K]> } : T;',
  ];
  const say = (type, value) => lines.push(`((_: Json<${type}>) => {})(${JSON.stringify(value, null, 1)});`);
  for (const panel of board.panels) {
    const plugin = PLUGINS[panel.type];
    const { options, ...rest } = panel;
    lines.push(`// ${panel.title}`);
    say(plugin ? 'Panel' : 'RowPanel', rest);
    if (!plugin) continue;
    say(`${plugin}.Options`, options);
    const custom = panel.fieldConfig.defaults.custom;
    if (custom) say(`Partial<${plugin}.FieldConfig>`, custom);
  }
  // What Prometheus' plugin adds to an annotation is not in the types: packages/grafana-prometheus/src/annotations.ts.
  const known = ({ target, titleFormat, textFormat, useValueForTime, ...rest }) => rest;
  say('Dashboard', { ...board, panels: [], annotations: { list: board.annotations.list.map(known) } });
  writeFileSync(`${types}/${name}.ts`, `${lines.join('\n')}\n`);
}

// https://grafana.com/docs/grafana/latest/administration/provisioning/
function provisioning(file, list, keys, more) {
  const given = parse(read(`provisioning/${file}`), { strict: true, uniqueKeys: true });
  const here = (text) => `provisioning/${file}: ${text}`;
  must(same(Object.keys(given), ['apiVersion', list]) && given.apiVersion === 1, here(`not apiVersion 1 with ${list}`));
  for (const entry of given[list]) {
    const odd = Object.keys(entry).filter((key) => !keys.includes(key));
    must(odd.length === 0, here(`unknown keys: ${odd}`));
    must(entry.name && entry.orgId === 1, here('an entry has no name, or another organisation'));
    more(entry, here);
  }
  console.log(`ok: provisioning/${file}`);
}

const boards = readdirSync(`${folder}/dashboards`);
boards.forEach(dashboard);
const PROVIDER = ['name', 'orgId', 'folder', 'folderUid', 'type', 'disableDeletion', 'updateIntervalSeconds', 'allowUiUpdates', 'options'];
provisioning('dashboards/scoreline.yaml', 'providers', PROVIDER, (entry, here) => {
  must(entry.type === 'file' && entry.options.path.startsWith('/'), here('it is not read from files at an absolute path'));
});
const SOURCE = ['name', 'uid', 'type', 'access', 'orgId', 'url', 'isDefault', 'editable', 'jsonData', 'version'];
provisioning('datasources/prometheus.yaml', 'datasources', SOURCE, (entry, here) => {
  must(entry.type === 'prometheus' && entry.access === 'proxy' && entry.url, here('it is no Prometheus that Grafana asks'));
  const odd = Object.keys(entry.jsonData).filter((key) => !['httpMethod', 'timeInterval', 'prometheusType'].includes(key));
  must(odd.length === 0, here(`unknown keys in jsonData: ${odd}`));
});
wrong.forEach((text) => console.error(text));
process.exit(wrong.length === 0 ? 0 : 1);
