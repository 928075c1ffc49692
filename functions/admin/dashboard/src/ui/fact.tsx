import type { ReactNode } from 'react';
import { Unknown } from './time';

interface Props {
  name: string;
  isWide?: boolean;
  children: ReactNode;
}

export function Fact({ name, isWide, children }: Props) {
  const isUnknown = children === null || children === false;
  return (
    <div className={isWide ? 'is-wide' : undefined}>
      <dt>{name}</dt>
      <dd>{isUnknown ? <Unknown /> : children}</dd>
    </div>
  );
}
