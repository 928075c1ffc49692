import { createContext, type ReactNode, useCallback, useContext, useEffect, useRef, useState } from 'react';
import { Icon } from '../ui/icons';

const SHOWN_MS = 10_000;
const SHOWN_AT_ONCE = 3;

export interface Toast {
  tone: 'good' | 'bad';
  title: string;
  body?: ReactNode;
}

const Context = createContext<(toast: Toast) => void>(() => {});

export function useToast(): (toast: Toast) => void {
  return useContext(Context);
}

export function ToastProvider({ children }: { children: ReactNode }) {
  const [toasts, setToasts] = useState<(Toast & { id: number })[]>([]);
  const next = useRef(0);

  const show = useCallback((toast: Toast) => {
    next.current += 1;
    const id = next.current;
    setToasts((shown) => [...shown, { ...toast, id }].slice(-SHOWN_AT_ONCE));
  }, []);
  const dismiss = useCallback((id: number) => setToasts((shown) => shown.filter((toast) => toast.id !== id)), []);

  return (
    <Context value={show}>
      {children}
      <section className="toasts" aria-label="Results" aria-live="polite">
        {toasts.map((toast) => (
          <ToastCard key={toast.id} toast={toast} onDismiss={() => dismiss(toast.id)} />
        ))}
      </section>
    </Context>
  );
}

function ToastCard({ toast: { tone, title, body }, onDismiss }: { toast: Toast; onDismiss: () => void }) {
  const [isHeld, setHeld] = useState(false);
  const dismiss = useRef(onDismiss);
  dismiss.current = onDismiss;

  // Whoever reads it with the pointer or the focus on it reads on for as long as it takes.
  useEffect(() => {
    if (isHeld) {
      return;
    }
    const timer = setTimeout(() => dismiss.current(), SHOWN_MS);
    return () => clearTimeout(timer);
  }, [isHeld]);

  return (
    <div
      className={`toast ${tone}`}
      onPointerEnter={() => setHeld(true)}
      onPointerLeave={() => setHeld(false)}
      onFocus={() => setHeld(true)}
      onBlur={() => setHeld(false)}
    >
      <Icon name={tone === 'good' ? 'check' : 'warning'} />
      <div>
        <strong>{title}</strong>
        {body && <div className="toast-body">{body}</div>}
      </div>
      <button type="button" className="button quiet icon-only" aria-label="Dismiss" onClick={onDismiss}>
        <Icon name="cross" />
      </button>
    </div>
  );
}
