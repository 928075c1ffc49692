import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { SyncClient } from '../sync-client.js';
import { DEFECTS } from './defects.js';
import { simulate } from './simulation.js';

const [SEED, SEEDS] = [Number(process.env.SEED ?? 0), Number(process.env.SEEDS ?? 200)];
/** In each of which a defect has its chance to show. */
const SEEDS_OF_A_DEFECT = 400;

test('clients are in step with the server whatever goes wrong, and each write is done once', async () => {
  for (let seed = SEED || 1; seed <= (SEED || SEEDS); seed += 1) {
    await simulate(seed, SyncClient).catch((error: Error) => assert.fail(`SEED=${seed}: ${error.stack}`));
  }
});

for (const [words, [before, after]] of Object.entries(DEFECTS)) {
  test(`a defect is caught: ${words}`, async () => {
    const Defective = await defective(before, after);
    for (let seed = 1; seed <= SEEDS_OF_A_DEFECT; seed += 1) {
      const error = await simulate(seed, Defective).then(() => undefined, (error: Error) => error);
      if (error) return void (process.env.SHOW && console.log(seed, error.message));
    }
    assert.fail(`nothing fails in ${SEEDS_OF_A_DEFECT} seeds`);
  });
}

/** The client, but for one place of its code. */
async function defective(before: string, after: string): Promise<typeof SyncClient> {
  const code = readFileSync(new URL('../sync-client.js', import.meta.url), 'utf8');
  assert.equal(code.split(before).length, 2, `the client's code has not once: ${before}`);
  const here = new URL('..', import.meta.url).href;
  const changed = code.replace(before, () => after).replaceAll("from './", `from '${here}`);
  return (await import(`data:text/javascript,${encodeURIComponent(changed)}`)).SyncClient;
}
