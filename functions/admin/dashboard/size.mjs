// Fails when the first load of the dashboard is too large: the page, and what it names, as they are sent.
import { readFileSync } from 'node:fs';
import { gzipSync } from 'node:zlib';

const LIMIT = 200_000;

const page = readFileSync('dist/index.html', 'utf8');
const assets = [...page.matchAll(/(?:src|href)="\/(assets\/[^"]+)"/g)].map((match) => `dist/${match[1]}`);
const sizes = ['dist/index.html', ...assets].map((file) => ({ file, size: gzipSync(readFileSync(file)).length }));
const total = sizes.reduce((sum, { size }) => sum + size, 0);

for (const { file, size } of sizes) {
  console.log(`${file.padEnd(48)} ${(size / 1000).toFixed(1).padStart(7)} kB gzipped`);
}
console.log(`${'first load'.padEnd(48)} ${(total / 1000).toFixed(1).padStart(7)} kB of ${LIMIT / 1000} kB`);
if (total > LIMIT) {
  console.error('The first load is above its limit.');
  process.exit(1);
}
