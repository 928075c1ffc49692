import { useState } from 'react';
import { url } from '../api/client';
import { usePages } from '../api/live';
import type { Reject, RejectsPage } from '../api/types';
import { count } from '../format';
import { formatRoute, replaceRoute, useRoute } from '../route';
import { Badge } from '../ui/badge';
import { Older } from '../ui/older';
import { Empty, Loaded } from '../ui/states';
import { type Column, Table } from '../ui/table';
import { Time } from '../ui/time';
import { RejectDrawer } from './reject-drawer';

const EVERY_MS = 5_000;
const REASONS = ['future', 'not_an_object', 'too_large', 'refused'];
const rejectsOf = (page: RejectsPage): Reject[] => page.rejects;

export function Rejects() {
  const { reason = '', open = '' } = useRoute().filters;
  const [opened, setOpened] = useState<Reject | null>(null);
  const pages = usePages(url('/api/ingest/rejects', { limit: 100, reason, open }), rejectsOf, EVERY_MS);
  const filter = (changed: Record<string, string>) => replaceRoute(formatRoute('ingest', { reason, open, ...changed }));
  const seen = pages.data?.rows.map((reject) => reject.reason) ?? [];
  const isFiltered = reason !== '' || open !== '';

  return (
    <section className="panel" aria-labelledby="rejects-heading">
      <div className="panel-head">
        <h2 id="rejects-heading">Rejects</h2>
        <p className="hint">Items that were not stored, kept for 30 days</p>
      </div>
      <div className="toolbar" role="search" aria-label="Rejects">
        <label className="field">
          <span>Reason</span>
          <select value={reason} onChange={(event) => filter({ reason: event.target.value })}>
            <option value="">All reasons</option>
            {/* A column is one, too, and a link may name any. */}
            {[...new Set([...REASONS, ...seen, ...(reason && [reason])])].map((name) => (
              <option key={name}>{name}</option>
            ))}
          </select>
        </label>
        <label className="field">
          <span>State</span>
          <select value={open} onChange={(event) => filter({ open: event.target.value })}>
            <option value="">Open and resolved</option>
            <option value="true">Open</option>
            <option value="false">Resolved</option>
          </select>
        </label>
        {isFiltered && (
          <button type="button" className="button quiet" onClick={() => filter({ reason: '', open: '' })}>
            Clear
          </button>
        )}
      </div>
      <Loaded of={pages} lines={8}>
        {({ rows }) => (
          <>
            {rows.length > 0 ? (
              <Table caption="Rejects, newest first" columns={columns(setOpened)} rows={rows} id={({ id }) => id} />
            ) : isFiltered ? (
              <Empty title="No reject matches" />
            ) : (
              <Empty title="Nothing was rejected">No item in the last 30 days.</Empty>
            )}
            <Older count={rows.length} noun="reject" pages={pages} />
          </>
        )}
      </Loaded>
      {opened && <RejectDrawer reject={opened} onClose={() => setOpened(null)} />}
    </section>
  );
}

function columns(open: (reject: Reject) => void): Column<Reject>[] {
  return [
    { name: 'Last seen', cell: ({ last_at }) => <Time at={last_at} /> },
    {
      name: 'Item',
      cell: (reject) => (
        <button type="button" className="link" onClick={() => open(reject)}>
          {reject.key === null ? `without a valid key, reject ${reject.id}` : <code>{reject.key}</code>}
        </button>
      ),
    },
    { name: 'Source', cell: ({ source }) => source },
    { name: 'Reason', cell: ({ reason }) => <code>{reason}</code> },
    { name: 'What is wrong', cell: ({ message }) => <span className="clamp">{message}</span> },
    { name: 'Times', kind: 'number', cell: ({ times }) => count(times) },
    {
      name: 'State',
      cell: ({ resolved_at }) => (
        <Badge tone={resolved_at === null ? 'warn' : 'good'}>{resolved_at === null ? 'Open' : 'Resolved'}</Badge>
      ),
    },
  ];
}
