import { usePages } from '../api/live';
import type { AuditEntry, AuditPage } from '../api/types';
import { json } from '../format';
import { Older } from '../ui/older';
import { Empty, Loaded } from '../ui/states';
import { type Column, Table } from '../ui/table';
import { Time, Unknown } from '../ui/time';

const EVERY_MS = 5_000;
const entriesOf = (page: AuditPage): AuditEntry[] => page.entries;

const COLUMNS: Column<AuditEntry>[] = [
  { name: 'When', cell: ({ at }) => <Time at={at} /> },
  { name: 'Who', cell: ({ actor }) => actor },
  { name: 'From', cell: ({ source_ip }) => (source_ip === null ? <Unknown /> : <code>{source_ip}</code>) },
  { name: 'Action', cell: ({ action }) => <span className="op">{action.replaceAll('_', ' ')}</span> },
  { name: 'Subject', cell: ({ subject }) => <code className="wrap">{subject}</code> },
  { name: 'Result', cell: ({ result }) => result.replaceAll('_', ' ') },
  { name: 'Detail', cell: ({ detail }) => <Detail detail={detail} /> },
];

export function Audit() {
  const pages = usePages('/api/audit?limit=100', entriesOf, EVERY_MS);
  return (
    <section className="panel" aria-labelledby="audit-heading">
      <div className="panel-head">
        <h2 id="audit-heading">Audit</h2>
        <p className="hint">Who changed what, newest first.</p>
      </div>
      <Loaded of={pages} lines={12}>
        {({ rows }) => (
          <>
            {rows.length > 0 ? (
              <Table caption="Audit entries, newest first" columns={COLUMNS} rows={rows} id={({ id }) => id} />
            ) : (
              <Empty title="Nobody has changed anything yet">
                Each redrive, discard, repair, pause and resume is written down here.
              </Empty>
            )}
            <Older count={rows.length} noun="entry" plural="entries" pages={pages} />
          </>
        )}
      </Loaded>
    </section>
  );
}

function Detail({ detail }: { detail: Record<string, unknown> | null }) {
  if (detail === null || Object.keys(detail).length === 0) {
    return <Unknown />;
  }
  return (
    <details>
      <summary>{Object.keys(detail).join(', ')}</summary>
      <pre>{json(detail)}</pre>
    </details>
  );
}
