import { createContext, type ReactNode, useContext, useState } from 'react';
import { useSWRConfig } from 'swr';
import type { RedriveFilter, RedriveTask } from '../api/types';
import { useApi } from '../session';
import { redrive } from './redrive';

interface Redrive {
  task: RedriveTask | null;
  error: Error | null;
  isRunning: boolean;
  start: (filter: RedriveFilter) => Promise<void>;
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

  /** Resolves once it has begun, and fails if it could not begin. */
  function start(filter: RedriveFilter): Promise<void> {
    setTask(null);
    setError(null);
    return new Promise((begun, failed) => {
      redrive(api, filter, {
        onProgress: (progress) => {
          setTask(progress);
          setRunning(progress.state === 'running');
          begun();
        },
      })
        .catch((failure: Error) => {
          setRunning(false);
          setError(failure);
          failed(failure);
        })
        .finally(() => mutate((key) => typeof key === 'string' && key.startsWith('/api/dlq')));
    });
  }

  const dismiss = () => {
    setTask(null);
    setError(null);
  };

  return <Context value={{ task, error, isRunning, start, dismiss }}>{children}</Context>;
}
