import { useState } from 'react';
import type { OutboxRow } from '../api/types';
import { Badge } from '../ui/badge';
import { type Column, Table } from '../ui/table';
import { Time } from '../ui/time';

const COLUMNS: Column<OutboxRow>[] = [
  { name: 'Id', cell: ({ id }) => <span className="mono">{id}</span> },
  { name: 'Written', cell: ({ created_at }) => <Time at={created_at} /> },
  { name: 'Stream', cell: ({ stream }) => stream },
  {
    name: 'Key',
    cell: ({ key }) => (key === null ? <span className="unknown">still to be found out</span> : <code title={key}>{key}</code>),
  },
  { name: 'Operation', cell: ({ op }) => <span className={`op ${op}`}>{op.replace('_', '-')}</span> },
  { name: 'Published', cell: ({ published }) => <Published published={published} /> },
];

export function OutboxTable({ rows }: { rows: OutboxRow[] }) {
  // What was there at first is no news.
  const [seen] = useState(rows[0]?.id ?? 0);
  return (
    <Table
      caption="Rows of the log, newest first"
      columns={COLUMNS}
      rows={rows}
      id={({ id }) => id}
      isNew={({ id }) => id > seen}
    />
  );
}

function Published({ published }: { published: Record<string, boolean> }) {
  const subscriptions = Object.entries(published);
  if (subscriptions.length === 0) {
    return <span className="unknown">no reader</span>;
  }
  return (
    <span className="badges">
      {subscriptions.map(([name, isPublished]) => (
        <Badge key={name} tone={isPublished ? 'good' : 'wait'}>
          {isPublished ? name : `${name} pending`}
        </Badge>
      ))}
    </span>
  );
}
