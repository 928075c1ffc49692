import { type Api, Problem, Unreachable } from '../api/client';
import type { RedriveFilter, RedriveTask } from '../api/types';

const PAUSE_MS = 1_000;
const TRIES = 5;

interface Options {
  onProgress: (task: RedriveTask) => void;
  wait?: (ms: number) => Promise<void>;
}

/** Starts a redrive and goes on with it until all is done. Whoever stops watching stops nothing: the server goes on with
 *  what is left each minute. */
export async function redrive(
  api: Api,
  filter: RedriveFilter,
  { onProgress, wait = sleep }: Options,
): Promise<RedriveTask> {
  // Not tried again: nobody knows whether a start without an answer has begun a task.
  let task = await api.send<RedriveTask>('POST', '/api/dlq/redrive', filter);
  onProgress(task);
  let failures = 0;
  while (task.state === 'running') {
    await wait(PAUSE_MS * 2 ** failures);
    try {
      task = await api.send<RedriveTask>('POST', `/api/dlq/redrive/${encodeURIComponent(task.task)}`);
      failures = 0;
      onProgress(task);
    } catch (error) {
      failures += 1;
      if (failures >= TRIES || !isPassing(error)) {
        throw error;
      }
    }
  }
  return task;
}

function isPassing(error: unknown): boolean {
  return (
    error instanceof Unreachable ||
    (error instanceof Problem && (error.status >= 500 || [409, 429].includes(error.status)))
  );
}

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
