import type { Validation } from '../api/types';
import { count } from '../format';
import { formatRoute } from '../route';
import { streamIn, titleOf } from '../targets';
import { Action } from '../ui/action';
import { Badge } from '../ui/badge';
import { type Column, Table } from '../ui/table';
import { Time, Unknown } from '../ui/time';
import { phaseOf, summary, toneOf, verdictOf } from './rounds';

interface Props {
  streams: Validation[];
  /** The `idOf` one of them. */
  opened: string;
  onValidate: (stream: Validation) => void;
}

/** Of a stream in a target. */
export function idOf({ stream, subscription }: Pick<Validation, 'stream' | 'subscription'>): string {
  return `${stream} ${subscription}`;
}

export function StreamsTable({ streams, opened, onValidate }: Props) {
  const columns: Column<Validation>[] = [
    {
      name: 'Stream',
      cell: (row) => (
        <a
          href={formatRoute('validation', { stream: row.stream, target: row.subscription })}
          aria-current={idOf(row) === opened ? 'true' : undefined}
          aria-label={streamIn(row.stream, row.subscription)}
        >
          {row.stream}
        </a>
      ),
    },
    { name: 'In', cell: ({ subscription }) => titleOf(subscription) },
    { name: 'Round', cell: (row) => <Phase row={row} /> },
    { name: 'Compared', kind: 'number', cell: ({ state, checked }) => <Progress state={state} value={checked} /> },
    { name: 'Of the target', kind: 'number', cell: ({ state, walked }) => <Progress state={state} value={walked} /> },
    { name: 'Verdict', cell: ({ verdict, verdict_at }) => <Verdict verdict={verdict} at={verdict_at} /> },
    { name: 'What differs', cell: (row) => <Classes row={row} /> },
    { name: 'Problem', cell: ({ problem }) => (problem === null ? 'none' : <span className="clamp">{problem}</span>) },
    {
      name: 'Validate',
      isNameHidden: true,
      kind: 'actions',
      cell: (row) => (
        <Action className="button small" aria-label={`Validate ${streamIn(row.stream, row.subscription)}…`} onClick={() => onValidate(row)}>
          Validate…
        </Action>
      ),
    },
  ];
  return <Table caption="How each stream was compared" columns={columns} rows={streams} id={idOf} />;
}

function Phase({ row }: { row: Validation }) {
  const { state, repair, dry_run, by, repaired } = row;
  const { tone, words } = phaseOf(row);
  return (
    <span className="badges is-short" title={by === null ? undefined : by === 'scrub' ? 'It was due' : `Asked for by ${by}`}>
      <Badge tone={tone}>{words}</Badge>
      {repair && state !== 'never' && (
        <Badge tone="plain">{dry_run ? 'repair, dry run' : repaired > 0 ? `${count(repaired)} repaired` : 'with repair'}</Badge>
      )}
    </span>
  );
}

function Progress({ state, value }: { state: string; value: number }) {
  return state === 'never' ? <Unknown /> : count(value);
}

function Verdict({ verdict, at }: { verdict: string | null; at: string | null }) {
  if (verdict === null) {
    return <Unknown />;
  }
  const { tone, words } = verdictOf(verdict);
  return (
    <span className="badges is-short">
      <Badge tone={tone}>{words}</Badge> <Time at={at} />
    </span>
  );
}

function Classes({ row: { classes, printed_differently } }: { row: Validation }) {
  if (classes.length === 0 && printed_differently === 0) {
    return 'nothing';
  }
  return (
    <span className="badges">
      {classes.map((one) => (
        <Badge key={`${one.class} ${one.state}`} tone={toneOf(one)}>
          {summary(one)}
        </Badge>
      ))}
      {printed_differently > 0 && (
        <span className="hint" title="The same values, with other spaces, digits or another order of fields">
          {count(printed_differently)} equal, but written differently
        </span>
      )}
    </span>
  );
}
