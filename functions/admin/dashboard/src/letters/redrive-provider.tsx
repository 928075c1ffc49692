import { createContext, type ReactNode, useContext, useState } from 'react';
import { useSWRConfig } from 'swr';
import type { RedriveFilter, RedriveTask } from '../api/types';
import { useApi } from '../session';
import { redrive } from './redrive';

interface Redrive {
  /** Null until the first answer, which may take as long as the server works within a request. */
  task: RedriveTask | null;
  error: Error | null;
  isRunning: boolean;
  start: (filter: RedriveFilter) => void;
  /** What is left stays where it is. */
  cancel: () => void;
  dismiss: () => void;
}

const Context = createContext<Redrive | null>(null);

export function useRedrive(): Redrive {
  const value = useContext(Context);
  if (!value) {
    throw new Error('There is no redrive: this component belongs inside a RedriveProvider.');
  }
  return value;
}

/** Above all pages: a redrive goes on while somebody looks at another one. */
export function RedriveProvider({ children }: { children: ReactNode }) {
  const api = useApi();
  const { mutate } = useSWRConfig();
  const [task, setTask] = useState<RedriveTask | null>(null);
  const [error, setError] = useState<Error | null>(null);
  const [isRunning, setRunning] = useState(false);

  const dismiss = () => {
    setTask(null);
    setError(null);
  };

  async function start(filter: RedriveFilter) {
    dismiss();
    setRunning(true);
    try {
      await redrive(api, filter, { onProgress: setTask });
    } catch (failure) {
      setError(failure as Error);
    } finally {
      setRunning(false);
      await mutate(isLetters);
    }
  }

  async function cancel() {
    try {
      await api.send<RedriveTask>('DELETE', `/api/dlq/redrive/${encodeURIComponent(task?.task ?? '')}`);
    } catch (failure) {
      setError(failure as Error);
    }
  }

  return (
    <Context value={{ task, error, isRunning, cancel: () => void cancel(), start: (filter) => void start(filter), dismiss }}>{children}</Context>
  );
}

function isLetters(key: unknown): boolean {
  return typeof key === 'string' && key.startsWith('/api/dlq');
}
