import { useState } from 'react';

/** Which rows are selected. What is not shown is not: nothing happens to a row that nobody sees. */
export function useSelection<Row>(shown: Row[], idOf: (row: Row) => string) {
  const [ids, setIds] = useState<ReadonlySet<string>>(new Set());
  const rows = shown.filter((row) => ids.has(idOf(row)));

  function select(changed: string[], isSelected: boolean) {
    const next = new Set(rows.map(idOf));
    changed.forEach((id) => (isSelected ? next.add(id) : next.delete(id)));
    setIds(next);
  }

  return {
    selected: new Set(rows.map(idOf)),
    rows,
    select,
    clear: () => setIds(new Set()),
  };
}
