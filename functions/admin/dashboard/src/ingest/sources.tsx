import { url } from '../api/client';
import { useLive } from '../api/live';
import type { IngestRequest, IngestStatus, Position, Round } from '../api/types';
import { count, duration } from '../format';
import { formatRoute } from '../route';
import { useApi } from '../session';
import { useToast } from '../shell/toasts';
import { Action, useRequest } from '../ui/action';
import { Badge } from '../ui/badge';
import { Icon } from '../ui/icons';
import { Empty, Loaded } from '../ui/states';
import { type Column, Table } from '../ui/table';
import { Time, Unknown, useNow } from '../ui/time';
import { ever, stateOf } from './state';

type Counted = { of: string } & Round;

const COLUMNS: Column<Counted>[] = [
  { name: 'Items', cell: ({ of }) => <strong>{of}</strong> },
  { name: 'Fetched', kind: 'number', cell: ({ fetched }) => count(fetched) },
  { name: 'Stored', kind: 'number', cell: ({ synced }) => count(synced) },
  { name: 'Outdated', kind: 'number', cell: ({ outdated }) => count(outdated) },
  { name: 'Duplicate', kind: 'number', cell: ({ duplicate }) => count(duplicate) },
  { name: 'Rejected', kind: 'number', cell: ({ rejected }) => count(rejected) },
];

export function Sources() {
  const ingest = useLive<IngestStatus>('/api/ingest', 5_000);
  return (
    <Loaded of={ingest} lines={5}>
      {(status) =>
        status.positions.length > 0 ? (
          <>
            {status.positions.map((position) => (
              <Source key={position.source} position={position} status={status} reload={ingest.reload} />
            ))}
          </>
        ) : (
          <section className="panel">
            <Empty title="There is no source">
              <code>sluice.define_ingest</code> makes one.
            </Empty>
          </section>
        )
      }
    </Loaded>
  );
}

function Source({ position, status, reload }: { position: Position; status: IngestStatus; reload: () => void }) {
  const api = useApi();
  const toast = useToast();
  const { isBusy, run } = useRequest();
  const { source } = position;

  const request = () =>
    run(async () => {
      try {
        await api.send<IngestRequest>('POST', url('/api/ingest/run', { source }));
        toast({ tone: 'good', title: 'A round is asked for', body: source });
        reload();
      } catch (error) {
        toast({ tone: 'bad', title: 'No round was asked for', body: (error as Error).message });
      }
    });

  return (
    <section className="panel" aria-labelledby={`source-${source}`}>
      <div className="panel-head">
        <h2 id={`source-${source}`}>{source}</h2>
        <State position={position} />
        <Action disabled={isBusy} onClick={request}>
          <Icon name="play" />
          Run now
        </Action>
      </div>
      <Facts position={position} openRejects={status.open_rejects} />
      <Table caption={`What became of the items of ${source}`} columns={COLUMNS} rows={counted(position, status)} id={({ of }) => of} />
    </section>
  );
}

function State({ position }: { position: Position }) {
  const { tone, words } = stateOf(position, useNow());
  return <Badge tone={tone}>{words}</Badge>;
}

function Facts({ position, openRejects }: { position: Position; openRejects: number }) {
  const { origin, since, last_run_at, last_duration_ms, last_error, last_error_at, failures } = position;
  return (
    <>
      <div className="pad">
        <p>
          <code className="wrap">{origin}</code>
        </p>
        {last_error !== null && (
          <p className={failures > 0 ? 'reason' : 'hint'}>
            {failures > 0 ? last_error : `The last failure, which is over: ${last_error}`} (<Time at={last_error_at} />)
          </p>
        )}
      </div>
      <dl className="tiles">
        <div>
          <dt>Last round</dt>
          <dd>
            <Time at={last_run_at} />
          </dd>
        </div>
        <div>
          <dt>It took</dt>
          <dd>{last_duration_ms === null ? <Unknown /> : duration(last_duration_ms)}</dd>
        </div>
        <div>
          <dt>Read up to</dt>
          <dd>
            <Time at={since} />
          </dd>
        </div>
        <div>
          <dt>Open rejects</dt>
          <dd>{openRejects > 0 ? <a href={formatRoute('ingest', { open: 'true' })}>{count(openRejects)}</a> : '0'}</dd>
        </div>
      </dl>
    </>
  );
}

function counted({ last_counts }: Position, status: IngestStatus): Counted[] {
  const rows = [{ of: status.positions.length > 1 ? 'All rounds of all' : 'All rounds', ...ever(status) }];
  return last_counts === null ? rows : [{ of: 'Last round', ...last_counts }, ...rows];
}
