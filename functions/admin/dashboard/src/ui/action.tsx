import { type ButtonHTMLAttributes, useState } from 'react';
import { useSession } from '../session';

export const READER_NOTE = 'reader-note';

/** A button that changes something: only the operator can press it, and whoever cannot is told why. */
export function Action({ className = 'button', disabled, title, ...rest }: ButtonHTMLAttributes<HTMLButtonElement>) {
  const isForbidden = useSession().role !== 'operator';
  return (
    <button
      type="button"
      {...rest}
      className={className}
      disabled={isForbidden || disabled}
      title={isForbidden ? "This needs the operator's token" : title}
      aria-describedby={isForbidden ? READER_NOTE : undefined}
    />
  );
}

/** A request that somebody waits for: whether it is under way, and why it failed. */
export function useRequest() {
  const [isBusy, setBusy] = useState(false);
  const [error, setError] = useState<Error>();

  async function run(request: () => Promise<void>) {
    setBusy(true);
    setError(undefined);
    try {
      await request();
    } catch (failure) {
      setError(failure as Error);
    } finally {
      setBusy(false);
    }
  }

  return { isBusy, error, run };
}
