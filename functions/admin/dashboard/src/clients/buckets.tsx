import { url } from '../api/client';
import { usePages } from '../api/live';
import type { Bucket, BucketsPage } from '../api/types';
import { count } from '../format';
import { Older } from '../ui/older';
import { Empty, Loaded } from '../ui/states';
import { type Column, Table } from '../ui/table';

const EVERY_MS = 10_000;
const bucketsOf = (page: BucketsPage): Bucket[] => page.buckets;

const COLUMNS: Column<Bucket>[] = [
  { name: 'Stream', cell: ({ stream }) => stream },
  { name: 'Bucket', cell: ({ bucket }) => <code>{bucket}</code> },
  { name: 'Items', kind: 'number', cell: ({ items }) => count(items) },
  { name: 'Last seq', kind: 'number', cell: ({ seq }) => <code>{seq}</code> },
  { name: 'Checksum', kind: 'number', cell: ({ checksum }) => <code>{checksum}</code> },
];

export function Buckets({ stream }: { stream: string }) {
  const pages = usePages(url('/api/sync/buckets', { limit: 50, stream }), bucketsOf, EVERY_MS);
  return (
    <section className="panel" aria-labelledby="buckets-heading">
      <div className="panel-head">
        <h2 id="buckets-heading">Buckets</h2>
        <p className="hint">What a client has to have of each, if it may read it</p>
      </div>
      <Loaded of={pages} lines={6}>
        {({ rows }) => (
          <>
            {rows.length > 0 ? (
              <Table caption="Buckets" columns={COLUMNS} rows={rows} id={({ stream, bucket }) => `${stream} ${bucket}`} />
            ) : (
              <Empty title="No bucket has anything yet">A bucket is there as soon as a document is in it.</Empty>
            )}
            <Older count={rows.length} noun="bucket" more="Load more" pages={pages} />
          </>
        )}
      </Loaded>
    </section>
  );
}
