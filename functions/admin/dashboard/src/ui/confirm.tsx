import type { ReactNode } from 'react';
import { useRequest } from './action';
import { Dialog } from './dialog';
import { Failure } from './states';

interface Props {
  title: string;
  action: string;
  isDangerous?: boolean;
  /** Nothing can be confirmed yet, or nothing is left to do. */
  isDisabled?: boolean;
  onConfirm: () => Promise<void>;
  onClose: () => void;
  children: ReactNode;
}

export function Confirm({ title, action, isDangerous, isDisabled, onConfirm, onClose, children }: Props) {
  const { isBusy, error, run } = useRequest();
  return (
    <Dialog
      title={title}
      onClose={onClose}
      footer={
        <>
          <button type="button" className="button" onClick={onClose}>
            Cancel
          </button>
          <button
            type="button"
            className={isDangerous ? 'button danger' : 'button primary'}
            disabled={isBusy || isDisabled}
            onClick={() => run(onConfirm)}
          >
            {isBusy ? 'One moment…' : action}
          </button>
        </>
      }
    >
      {children}
      {error && <Failure error={error} />}
    </Dialog>
  );
}
