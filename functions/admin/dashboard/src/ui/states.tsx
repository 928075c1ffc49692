import type { ReactNode } from 'react';
import { Problem, Unreachable } from '../api/client';
import type { Live } from '../api/live';
import { Icon } from './icons';

interface LoadedProps<T> {
  of: Live<T>;
  /** How many lines the data will take, about: the page does not jump when they come. */
  lines?: number;
  children: (data: T) => ReactNode;
}

/** Data, or what there is instead. Data that could not be refreshed stay, and say so. */
export function Loaded<T>({ of: { data, error, isLoading, reload }, lines = 4, children }: LoadedProps<T>) {
  if (data === undefined) {
    return error ? <Failure error={error} onRetry={reload} /> : <Skeleton lines={lines} />;
  }
  return (
    <>
      {error && !(error instanceof Unreachable) && <Failure error={error} isStale onRetry={reload} />}
      <div className="loaded" aria-busy={isLoading}>
        {children(data)}
      </div>
    </>
  );
}

interface FailureProps {
  error: Error;
  isStale?: boolean;
  onRetry?: () => void;
}

export function Failure({ error, isStale = false, onRetry }: FailureProps) {
  const title = error instanceof Problem ? error.title : 'No connection';
  return (
    <div className="failure" role="alert">
      <Icon name="warning" />
      <div>
        <strong>{isStale ? `Not refreshed: ${title}` : title}</strong>
        <p>{error.message}</p>
      </div>
      {onRetry && (
        <button type="button" className="button" onClick={onRetry}>
          Try again
        </button>
      )}
    </div>
  );
}

export function Skeleton({ lines }: { lines: number }) {
  return (
    <div className="skeleton" role="status">
      <span className="visually-hidden">Loading…</span>
      {Array.from({ length: lines }, (_, line) => (
        <span key={line} className="skeleton-line" />
      ))}
    </div>
  );
}

export function Empty({ title, children }: { title: string; children?: ReactNode }) {
  return (
    <div className="empty">
      <strong>{title}</strong>
      {children && <p>{children}</p>}
    </div>
  );
}
