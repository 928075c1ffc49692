import { useState } from 'react';
import { useLive } from '../api/live';
import type { Generation, Generations, Stream, Streams } from '../api/types';
import { count, plural } from '../format';
import { useApi } from '../session';
import { useToast } from '../shell/toasts';
import { Action } from '../ui/action';
import { Badge } from '../ui/badge';
import { Confirm } from '../ui/confirm';
import { Loaded } from '../ui/states';
import { type Column, Table } from '../ui/table';
import { Time } from '../ui/time';
import { baseOf, done } from './progress';

type What = 'takeover' | 'rollback' | 'abort';

const WORDS: Record<What, { action: string; asks: string; says: string }> = {
  takeover: {
    action: 'Take over',
    asks: 'It becomes the live one as soon as it equals its source. The one before is kept for a while.',
    says: 'takes over as soon as it can',
  },
  rollback: {
    action: 'Go back',
    asks: 'Searches find this one again, within a minute. It was written all the time, so nothing is lost.',
    says: 'becomes the live one again',
  },
  abort: { action: 'Give up', asks: 'Its index is deleted. The live one stays as it is.', says: 'is given up' },
};

/** Indexes that are being built, or kept, beside the live ones; nothing where there are none. */
export function GenerationsPanel() {
  const { data } = useLive<Streams>('/api/streams', 5_000);
  const streams = data?.streams.filter(({ subscription }) => subscription === 'elasticsearch') ?? [];
  const names = [...new Set(streams.filter(({ name }) => baseOf(name) !== name).map(({ name }) => baseOf(name)))];
  if (names.length === 0) {
    return null;
  }
  return (
    <section className="panel" aria-labelledby="generations-heading">
      <div className="panel-head">
        <h2 id="generations-heading">Generations</h2>
        <p className="hint">Indexes beside the live one</p>
      </div>
      {names.map((name) => (
        <OfStream key={name} name={name} source={streams.find((one) => one.name === name)} />
      ))}
    </section>
  );
}

function OfStream({ name, source }: { name: string; source: Stream | undefined }) {
  const path = `/api/streams/${encodeURIComponent(name)}`;
  const generations = useLive<Generations>(`${path}/generations`, 2_000);
  const [asked, setAsked] = useState<{ what: What; number: number }>();
  const columns: Column<Generation>[] = [
    { name: 'Stream', cell: () => name },
    { name: 'Generation', kind: 'number', cell: ({ number }) => number },
    { name: 'State', cell: ({ state }) => <Badge tone={state === 'live' ? 'good' : state === 'building' ? 'wait' : 'plain'}>{state}</Badge> },
    { name: 'Index', cell: ({ index }) => <code>{index}</code> },
    { name: 'Filled', cell: (one) => <Progress of={one} rows={source?.source_count ?? null} /> },
    { name: 'Dead letters', kind: 'number', cell: ({ letters }) => count(letters) },
    { name: 'Since', cell: ({ begun_at }) => <Time at={begun_at} /> },
    { name: 'Waits for', cell: ({ waits }) => <span className="wrap">{waits ?? '–'}</span> },
    {
      name: 'Actions',
      isNameHidden: true,
      kind: 'actions',
      cell: ({ state, number }) => (
        <div className="side-by-side">
          {state === 'building' && <Action className="button small" onClick={() => setAsked({ what: 'takeover', number })}>Take over</Action>}
          {state === 'kept' && <Action className="button small" onClick={() => setAsked({ what: 'rollback', number })}>Go back</Action>}
          {(state === 'building' || state === 'kept') && <Action className="button small" onClick={() => setAsked({ what: 'abort', number })}>Give up</Action>}
        </div>
      ),
    },
  ];
  return (
    <Loaded of={generations} lines={2}>
      {({ generations: rows }) => (
        <>
          <Table caption={`Generations of ${name}`} columns={columns} rows={rows} id={({ number }) => String(number)} />
          {asked && <Asked {...asked} stream={name} path={path} onClose={() => setAsked(undefined)} />}
        </>
      )}
    </Loaded>
  );
}

function Progress({ of: { state, is_filled, logged, begun_at }, rows }: { of: Generation; rows: number | null }) {
  if (state !== 'building' || is_filled) {
    return 'all';
  }
  const { share, left } = done(logged, rows, begun_at, Date.now());
  return (
    <span title={left}>
      {share !== null && <progress value={share} max={1} aria-label="Filled" />} {plural(logged, 'key')}
    </span>
  );
}

interface AskedProps {
  what: What;
  number: number;
  stream: string;
  path: string;
  onClose: () => void;
}

function Asked({ what, number, stream, path, onClose }: AskedProps) {
  const api = useApi();
  const toast = useToast();
  const { action, asks, says } = WORDS[what];

  async function carryOut() {
    await api.send('POST', `${path}/${what}`, what === 'takeover' ? {} : undefined);
    onClose();
    toast({ tone: 'good', title: `Generation ${number} of ${stream} ${says}` });
  }

  return (
    <Confirm title={`${action}: generation ${number} of ${stream}?`} action={action} isDangerous={what === 'abort'} onConfirm={carryOut} onClose={onClose}>
      <p>{asks}</p>
    </Confirm>
  );
}
