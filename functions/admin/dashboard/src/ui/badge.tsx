import type { ReactNode } from 'react';
import { Icon } from './icons';

const ICONS = { good: 'check', bad: 'cross', warn: 'warning', wait: 'clock' } as const;

/** Its icon and its words say what its colour says. */
export function Badge({ tone, children }: { tone: keyof typeof ICONS | 'plain'; children: ReactNode }) {
  return (
    <span className={`badge ${tone}`}>
      {tone !== 'plain' && <Icon name={ICONS[tone]} />}
      {children}
    </span>
  );
}
