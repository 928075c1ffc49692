import { useState } from 'react';
import { url } from '../api/client';
import { usePages } from '../api/live';
import type { OutboxPage, OutboxRow } from '../api/types';
import { formatRoute, replaceRoute, useRoute } from '../route';
import { StreamFilter, TextFilter } from '../ui/filters';
import { Older } from '../ui/older';
import { RefreshToggle } from '../ui/refresh';
import { Empty, Loaded } from '../ui/states';
import { OutboxTable } from './outbox-table';

const EVERY_MS = 3_000;
const rowsOf = (page: OutboxPage): OutboxRow[] => page.rows;

export function Outbox() {
  const [isPaused, setPaused] = useState(false);
  const { filters } = useRoute();
  const { stream = '', key = '' } = filters;
  const pages = usePages(url('/api/outbox', { limit: 100, stream, key }), rowsOf, isPaused ? 0 : EVERY_MS);
  const filter = (changed: Record<string, string>) => replaceRoute(formatRoute('outbox', { stream, key, ...changed }));
  const isFiltered = stream !== '' || key !== '';

  return (
    <section className="panel" aria-labelledby="outbox-heading">
      <div className="panel-head">
        <h2 id="outbox-heading">Outbox</h2>
        <RefreshToggle isPaused={isPaused} every="3 s" onToggle={() => setPaused(!isPaused)} />
      </div>
      <div className="toolbar" role="search" aria-label="Outbox">
        <StreamFilter value={stream} onChange={(value) => filter({ stream: value })} />
        <TextFilter label="Key" value={key} placeholder="Exact key" onChange={(value) => filter({ key: value })} />
        {isFiltered && (
          <button type="button" className="button quiet" onClick={() => filter({ stream: '', key: '' })}>
            Clear
          </button>
        )}
      </div>
      <Loaded of={pages} lines={12}>
        {({ rows, next }) => (
          <>
            {rows.length > 0 ? (
              <OutboxTable rows={rows} />
            ) : next !== null ? (
              <Empty title="None among the newest rows">Older rows were not looked at yet.</Empty>
            ) : isFiltered ? (
              <Empty title="No row matches">
                Another stream or key may have some, or the rows are dropped already.
              </Empty>
            ) : (
              <Empty title="The log is empty">Rows appear here as soon as a tracked table is written to.</Empty>
            )}
            <Older count={rows.length} noun="row" pages={pages} />
          </>
        )}
      </Loaded>
    </section>
  );
}
