import type { RedriveTask } from '../api/types';
import { count, plural } from '../format';
import { Action } from '../ui/action';
import { Icon } from '../ui/icons';
import { useRedrive } from './redrive-provider';

/** How far the redrive is, on every page. */
export function RedriveStrip() {
  const { task, error, isRunning, cancel, dismiss } = useRedrive();
  const hasFailed = error !== null;
  return (
    <div role="status">
      {(task || error || isRunning) && (
        <section className={`redrive ${hasFailed ? 'failed' : isRunning ? 'running' : 'done'}`} aria-label="Redrive">
          <Icon name={hasFailed ? 'warning' : isRunning ? 'clock' : 'check'} />
          <div>
            <strong>{headline(task, error)}</strong>
            {error && <p>{error.message}</p>}
            {task?.error && <p>{isRunning ? `Stopped for now: ${task.error}` : task.error}</p>}
            {task && <p>{progress(task)}</p>}
            {isRunning && <Bar task={task} />}
          </div>
          {isRunning && task && <Action onClick={cancel}>Cancel</Action>}
          {!isRunning && (
            <button type="button" className="button quiet icon-only" aria-label="Dismiss" onClick={dismiss}>
              <Icon name="cross" />
            </button>
          )}
        </section>
      )}
    </div>
  );
}

function Bar({ task }: { task: RedriveTask | null }) {
  // Without a value it says that something goes on, and not how far it is.
  const done = task && task.redriven + task.already_redriven;
  return <progress aria-label="Letters redriven" {...(done && { value: done, max: Math.max(task.total, done) })} />;
}

function headline(task: RedriveTask | null, error: Error | null): string {
  if (!task) {
    return error ? 'The redrive did not answer' : 'The redrive begins';
  }
  if (error) {
    return `Redrive ${task.task} is not watched any more; what is left is gone on with each minute`;
  }
  switch (task.state) {
    case 'running':
      return `Redrive ${task.task} is under way`;
    case 'done':
      return `Redrive ${task.task} is done`;
    case 'cancelled':
      return `Redrive ${task.task} is cancelled`;
  }
}

function progress({ redriven, already_redriven, total }: RedriveTask): string {
  const before = already_redriven > 0 ? `, ${count(already_redriven)} were redriven before` : '';
  return `${plural(redriven, 'letter')} redriven${before}; there were ${count(total)} when it began`;
}
