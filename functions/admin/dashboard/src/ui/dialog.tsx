import { type ReactNode, useId, useLayoutEffect, useRef } from 'react';
import { Icon } from './icons';

interface Props {
  title: ReactNode;
  /** A drawer keeps what is beside it in sight; a dialog asks a question. */
  kind?: 'dialog' | 'drawer';
  isWide?: boolean;
  footer?: ReactNode;
  onClose: () => void;
  children: ReactNode;
}

export function Dialog({ title, kind = 'dialog', isWide = false, footer, onClose, children }: Props) {
  const ref = useRef<HTMLDialogElement>(null);
  const heading = useId();

  useLayoutEffect(() => {
    const dialog = ref.current;
    dialog?.showModal();
    // A question is answered at once; without one, the button that closes comes first.
    dialog?.querySelector<HTMLElement>('.dialog-content :is(input, textarea)')?.focus();
    // Only a dialog that was closed gives the focus back to what had it.
    return () => dialog?.close();
  }, []);

  return (
    <dialog
      ref={ref}
      className={isWide ? `${kind} is-wide` : kind}
      aria-labelledby={heading}
      onClose={(event) => {
        // React's strict mode opens it again, before it is told that it was closed.
        if (!event.currentTarget.open) {
          onClose();
        }
      }}
      onPointerDown={(event) => {
        // A question that was half answered is not closed by a click that went astray.
        if (kind === 'drawer' && event.target === event.currentTarget) {
          onClose();
        }
      }}
    >
      <div className="dialog-body">
        <header>
          <h2 id={heading}>{title}</h2>
          <button type="button" className="button quiet icon-only" aria-label="Close" onClick={onClose}>
            <Icon name="cross" />
          </button>
        </header>
        <div className="dialog-content">{children}</div>
        {footer && <footer>{footer}</footer>}
      </div>
    </dialog>
  );
}
