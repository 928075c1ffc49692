import { useLive } from '../api/live';
import type { Stream, Streams } from '../api/types';
import { count, plural } from '../format';
import { formatRoute } from '../route';
import { placeAt } from '../targets';
import { Badge } from '../ui/badge';
import { Empty, Loaded } from '../ui/states';
import { type Column, Table } from '../ui/table';
import { Unknown } from '../ui/time';

const COLUMNS: Column<Stream>[] = [
  {
    name: 'Stream',
    cell: ({ name }) => <a href={formatRoute('outbox', { stream: name })}>{name}</a>,
  },
  { name: 'Goes to', cell: ({ subscription }) => subscription },
  { name: 'Source', cell: ({ source }) => (source === null ? 'emitted' : <code>{source}</code>) },
  { name: 'Rows', kind: 'number', cell: (stream) => <SourceCount stream={stream} /> },
  { name: 'Indexed', kind: 'number', cell: ({ index_count }) => <Count value={index_count} /> },
  { name: 'Index, table or topic', cell: ({ index }) => (index === null ? <Unknown /> : <code>{index}</code>) },
  { name: 'Tables', cell: ({ tables }) => <code className="wrap">{tables.join(', ') || '–'}</code> },
  { name: 'State', cell: (stream) => <State stream={stream} /> },
];

export function StreamsPanel() {
  const streams = useLive<Streams>('/api/streams', 5_000);
  return (
    <section className="panel" aria-labelledby="streams-heading">
      <div className="panel-head">
        <h2 id="streams-heading">Streams</h2>
        <p className="hint">Documents in the source, and in the index</p>
      </div>
      <Loaded of={streams} lines={3}>
        {({ streams: rows }) =>
          rows.length > 0 ? (
            <Table caption="Streams" columns={COLUMNS} rows={rows} id={({ name, subscription }) => `${name} ${subscription}`} />
          ) : (
            <Empty title="No stream is defined">
              Define one with <code>sluice.define_stream</code>, then run the migrations.
            </Empty>
          )
        }
      </Loaded>
    </section>
  );
}

function Count({ value }: { value: number | null }) {
  return value === null ? <Unknown /> : count(value);
}

function SourceCount({ stream: { source_count, source_count_is_estimate } }: { stream: Stream }) {
  return (
    <span title={source_count_is_estimate ? 'An estimate: the table is large' : undefined}>
      {source_count_is_estimate && 'about '}
      <Count value={source_count} />
    </span>
  );
}

function State({ stream }: { stream: Stream }) {
  const { index, is_current, waiting, expansions, untracked_tables, last_error, problem } = stream;
  const difference = missing(stream);
  const isFine =
    index !== null &&
    is_current &&
    untracked_tables.length === 0 &&
    last_error === null &&
    problem === null &&
    difference === 0;
  return (
    <span className="badges">
      {index === null && <Badge tone="warn">no {placeAt(stream.subscription)} yet</Badge>}
      {index !== null && !is_current && <Badge tone="warn">mapping not applied yet</Badge>}
      {difference > 0 && <Badge tone="wait">{plural(difference, 'document')} not in the index</Badge>}
      {difference < 0 && <Badge tone="wait">{plural(-difference, 'document')} too many in the index</Badge>}
      {waiting > 0 && <Badge tone="wait">{count(waiting)} waiting</Badge>}
      {expansions > 0 && <Badge tone="wait">{plural(expansions, 'expansion')} under way</Badge>}
      {untracked_tables.length > 0 && <Badge tone="warn">not tracked: {untracked_tables.join(', ')}</Badge>}
      {problem !== null && <Badge tone="bad">{problem}</Badge>}
      {last_error !== null && <Badge tone="bad">{last_error}</Badge>}
      {isFine && waiting === 0 && expansions === 0 && <Badge tone="good">In step</Badge>}
    </span>
  );
}

/** How many documents the index lacks; an estimate of the source's cannot say. */
export function missing({ source_count, index_count, source_count_is_estimate }: Stream): number {
  return source_count === null || index_count === null || source_count_is_estimate ? 0 : source_count - index_count;
}
