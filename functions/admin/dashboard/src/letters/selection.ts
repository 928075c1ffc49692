import { useState } from 'react';
import type { Letter } from '../api/types';

/** Which rows are selected. What is not shown is not: nothing happens to a letter that nobody sees. */
export function useSelection(shown: Letter[]) {
  const [ids, setIds] = useState<ReadonlySet<string>>(new Set());
  const letters = shown.filter(({ message_id }) => ids.has(message_id));

  function select(changed: string[], isSelected: boolean) {
    const next = new Set(letters.map(({ message_id }) => message_id));
    changed.forEach((id) => (isSelected ? next.add(id) : next.delete(id)));
    setIds(next);
  }

  return {
    selected: new Set(letters.map(({ message_id }) => message_id)),
    letters,
    select,
    clear: () => setIds(new Set()),
  };
}
