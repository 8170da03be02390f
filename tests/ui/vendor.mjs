// Compares what src/http/ui/vendor/ holds with the npm packages that it comes from; with --write, takes it from them.

import { readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const here = dirname(fileURLToPath(import.meta.url));
const vendor = join(here, '../../src/http/ui/vendor');
const list = join(vendor, 'VENDORED');
const write = process.argv.includes('--write');

/** Packages by the file that stands for them. */
const modules = {
  preact: './preact.mjs',
  'preact/hooks': './hooks.mjs',
  '@preact/signals-core': './signals-core.mjs',
};

/** The file as it is served: browsers know no packages. */
function served(/** @type {string} */ text) {
  return text
    .replace(/\bfrom\s*"(@?[a-z][a-z/-]*)"/g, (_, name) => {
      if (!(name in modules)) throw new Error(`nothing stands for ${name}`);
      return `from"${modules[/** @type {keyof typeof modules} */ (name)]}"`;
    })
    .replace(/\n?\/\/# sourceMappingURL=.*\n?$/, '\n');
}

const wrong = [];
const known = new Set(['VENDORED']);
const lines = [];
for (const line of readFileSync(list, 'utf8').trimEnd().split('\n')) {
  const [file, name, version, inside] = line.split(/\s+/);
  if (line.startsWith('#')) {
    lines.push(line);
    continue;
  }
  const home = join(here, 'node_modules', name);
  const installed = JSON.parse(readFileSync(join(home, 'package.json'), 'utf8')).version;
  const text = readFileSync(join(home, inside), 'utf8');
  const wanted = file.endsWith('.mjs') ? served(text) : text;
  known.add(file);
  lines.push(`${file.padEnd(22)}${name.padEnd(22)}${installed.padEnd(8)}${inside}`);
  if (write) {
    writeFileSync(join(vendor, file), wanted);
  } else {
    if (installed !== version) wrong.push(`${file} is of ${name} ${version}, installed is ${installed}`);
    if (readFileSync(join(vendor, file), 'utf8') !== wanted) wrong.push(`${file} is not what ${name} ${installed} has`);
  }
}
if (write) writeFileSync(list, lines.join('\n') + '\n');
for (const file of readdirSync(vendor)) {
  if (!known.has(file)) wrong.push(`${file} is not in VENDORED`);
}
if (wrong.length > 0) {
  console.error(wrong.join('\n'));
  process.exit(1);
}
console.log(`good: all of ${known.size - 1} vendored files are those of their packages`);
