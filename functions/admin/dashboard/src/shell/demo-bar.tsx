import { useSWRConfig } from 'swr';
import type { DemoChange } from '../api/types';
import { formatRoute } from '../route';
import { useApi } from '../session';
import { Action, useRequest } from '../ui/action';
import { useToast } from './toasts';

export function DemoBar() {
  const api = useApi();
  const toast = useToast();
  const { mutate } = useSWRConfig();
  const { isBusy, run } = useRequest();

  const change = (path: string, said: string) =>
    run(async () => {
      try {
        const answer = await api.send<DemoChange>('POST', path);
        toast({ tone: 'good', title: `User ${answer.user} ${said}`, body: <Written change={answer} /> });
        await mutate(isPages);
      } catch (error) {
        toast({ tone: 'bad', title: 'Nothing was written', body: (error as Error).message });
      }
    });

  return (
    <section className="demo-bar" aria-label="Demo">
      <p>Write to the source, and watch the change go by.</p>
      <Action disabled={isBusy} onClick={() => change('/api/add-user', 'added')}>
        Add user
      </Action>
      <Action disabled={isBusy} onClick={() => change('/api/update-user', 'updated')}>
        Update random user
      </Action>
    </section>
  );
}

/** The log and the audit show it at once. */
function isPages(key: unknown): boolean {
  return Array.isArray(key);
}

function Written({ change: { name, stream, key, projects, hackathons, log_rows } }: { change: DemoChange }) {
  return (
    <>
      <p>
        {name}; {list('project', projects)}, {list('hackathon', hackathons)}.
      </p>
      <ul className="log-rows">
        {log_rows.map((row) => (
          <li key={row.id}>
            <code>
              #{row.id} {row.op.replace('_', '-')} {row.stream} {row.key}
            </code>
          </li>
        ))}
      </ul>
      <a href={formatRoute('outbox', { stream, key })}>Its rows in the outbox</a>
    </>
  );
}

function list(noun: string, ids: string[]): string {
  return ids.length === 0 ? `no ${noun}s` : `${noun}${ids.length === 1 ? '' : 's'} ${ids.join(', ')}`;
}
