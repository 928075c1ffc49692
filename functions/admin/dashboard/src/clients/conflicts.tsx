import { useState } from 'react';
import { url } from '../api/client';
import { usePages } from '../api/live';
import type { Conflict, ConflictsPage } from '../api/types';
import { Older } from '../ui/older';
import { Empty, Loaded } from '../ui/states';
import { type Column, Table } from '../ui/table';
import { Time } from '../ui/time';
import { ConflictDrawer } from './conflict-drawer';
import { Result } from './result';

const EVERY_MS = 10_000;
const conflictsOf = (page: ConflictsPage): Conflict[] => page.conflicts;

export function Conflicts({ stream }: { stream: string }) {
  const [opened, setOpened] = useState<Conflict | null>(null);
  const pages = usePages(url('/api/sync/conflicts', { limit: 50, stream }), conflictsOf, EVERY_MS);
  return (
    <section className="panel" aria-labelledby="conflicts-heading">
      <div className="panel-head">
        <h2 id="conflicts-heading">Conflicts</h2>
        <p className="hint">Changes of clients that had another document than there was, kept for a year</p>
      </div>
      <Loaded of={pages} lines={6}>
        {({ rows }) => (
          <>
            {rows.length > 0 ? (
              <Table caption="Conflicts, newest first" columns={columns(setOpened)} rows={rows} id={({ number }) => number} />
            ) : (
              <Empty title="There was no conflict">No client has changed a document that was another one meanwhile.</Empty>
            )}
            <Older count={rows.length} noun="conflict" pages={pages} />
          </>
        )}
      </Loaded>
      {opened && <ConflictDrawer conflict={opened} onClose={() => setOpened(null)} />}
    </section>
  );
}

function columns(open: (conflict: Conflict) => void): Column<Conflict>[] {
  return [
    { name: 'When', cell: ({ at }) => <Time at={at} /> },
    {
      name: 'Document',
      cell: (conflict) => (
        <button type="button" className="link" onClick={() => open(conflict)}>
          <code>{conflict.key}</code>
        </button>
      ),
    },
    { name: 'Stream', cell: ({ stream }) => stream },
    { name: 'By', cell: ({ subject }) => <code>{subject}</code> },
    { name: 'Operation', cell: ({ op }) => op },
    { name: 'Result', cell: ({ applied }) => <Result applied={applied} /> },
  ];
}
