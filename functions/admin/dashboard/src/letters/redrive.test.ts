import { expect, it, vi } from 'vitest';
import { type Api, Problem, Unreachable } from '../api/client';
import type { RedriveTask } from '../api/types';
import { redrive } from './redrive';

function task(redriven: number, state: RedriveTask['state'] = 'running'): RedriveTask {
  return {
    task: '17',
    state,
    redriven,
    already_redriven: 0,
    total: 10,
    started_at: '',
    updated_at: '',
    by: 'operator',
    error: null,
  };
}

/** Runs a redrive against these answers: what was asked, what was shown, and for how long it waited. */
async function run(answers: (RedriveTask | Error)[]) {
  const asked: string[] = [];
  const shown: number[] = [];
  const waited: number[] = [];
  const send = vi.fn(async (_method: string, path: string) => {
    asked.push(path);
    const answer = answers.shift();
    if (answer === undefined || answer instanceof Error) {
      throw answer ?? new Error('It asked too often.');
    }
    return answer;
  });
  const result = await redrive(
    { send } as unknown as Api,
    { stream: 'users' },
    {
      onProgress: (progress) => shown.push(progress.redriven),
      wait: async (ms) => void waited.push(ms),
    },
  ).catch((error: Error) => error);
  return { asked, shown, waited, result, send };
}

it('goes on with its task until it is done', async () => {
  const { asked, shown, result, send } = await run([task(4), task(8), task(10, 'done')]);
  expect(asked).toEqual(['/api/dlq/redrive', '/api/dlq/redrive/17', '/api/dlq/redrive/17']);
  expect(send.mock.calls[0]).toEqual(['POST', '/api/dlq/redrive', { stream: 'users' }]);
  expect(shown).toEqual([4, 8, 10]);
  expect(result).toMatchObject({ state: 'done' });
});

it('asks once when there is little to do', async () => {
  const { asked, waited } = await run([task(10, 'done')]);
  expect(asked).toHaveLength(1);
  expect(waited).toEqual([]);
});

it('waits longer each time that no answer comes, and as before once one does', async () => {
  const { result, waited } = await run([
    task(1),
    new Unreachable(),
    new Problem(503, '', ''),
    task(2),
    new Problem(409, '', ''),
    task(10, 'done'),
  ]);
  expect(waited).toEqual([1_000, 2_000, 4_000, 1_000, 2_000]);
  expect(result).toMatchObject({ state: 'done' });
});

it('gives up on a refusal at once, and on a server that stays away in the end', async () => {
  const refusal = new Problem(404, 'Not Found', 'There is no such task.');
  expect((await run([task(1), refusal])).result).toBe(refusal);
  const { asked, result } = await run([task(1), ...Array.from({ length: 9 }, () => new Unreachable())]);
  expect(result).toBeInstanceOf(Unreachable);
  expect(asked).toHaveLength(6);
});

it('does not start twice', async () => {
  const { asked, result } = await run([new Unreachable(), task(1)]);
  expect(asked).toHaveLength(1);
  expect(result).toBeInstanceOf(Unreachable);
});
