import type { RedriveTask } from '../api/types';
import { count, plural } from '../format';
import { Icon } from '../ui/icons';
import { useRedrive } from './redrive-provider';

/** How far the redrive is, on every page. */
export function RedriveStrip() {
  const { task, error, isRunning, dismiss } = useRedrive();
  return (
    <div role="status">
      {task && (
        <section className={`redrive ${error ? 'failed' : task.state}`} aria-label="Redrive">
          <Icon name={isRunning ? 'clock' : error || task.state === 'failed' ? 'warning' : 'check'} />
          <div>
            <strong>{headline(task, error)}</strong>
            <p>
              {plural(task.redriven, 'letter')} redriven
              {task.already_redriven > 0 && `, ${count(task.already_redriven)} already redriven`}, {count(task.seen)} of{' '}
              {count(task.total)} seen
            </p>
            {isRunning && (
              <progress aria-label="Letters seen" value={task.seen} max={Math.max(task.total, task.seen, 1)} />
            )}
          </div>
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

function headline({ task, state, error: reason }: RedriveTask, error: Error | null): string {
  if (error) {
    return `Redrive ${task} is not watched any more: ${error.message} What is left is gone on with each minute.`;
  }
  switch (state) {
    case 'running':
      return `Redrive ${task} is under way`;
    case 'done':
      return `Redrive ${task} is done`;
    case 'failed':
      return `Redrive ${task} has failed: ${reason ?? 'no reason was given'}`;
  }
}
