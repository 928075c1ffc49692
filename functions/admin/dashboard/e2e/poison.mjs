import { execFile } from 'node:child_process';
import { promisify } from 'node:util';

const run = promisify(execFile);

/**
 * Puts a letter into the dead-letter queue, which comes back until its cause is mended: its row on the page.
 * @param {import('playwright-core').Page} page the dead letters
 */
export async function poison(page) {
  const rows = page.locator('tr[data-row]');
  const known = await rows.evaluateAll((all) => all.map((row) => row.getAttribute('data-row')));
  await command('POISON', 'a shell command that makes one dead letter');
  const id = await page.waitForFunction(
    (known) =>
      [...document.querySelectorAll('tr[data-row]')]
        .map((row) => row.getAttribute('data-row'))
        .find((row) => !known.includes(row)),
    known,
  );
  return page.locator(`tr[data-row="${await id.jsonValue()}"]`);
}

export const reject = () => command('REJECT', 'a shell command that makes one rejected profile');

export const mend = () => command('MEND', 'a shell command that mends the cause of that letter');

/**
 * @param {string} name
 * @param {string} meaning
 */
async function command(name, meaning) {
  const line = process.env[name];
  if (!line) {
    throw new Error(`${name} is not set: it is ${meaning}.`);
  }
  await run('sh', ['-c', line]);
}
