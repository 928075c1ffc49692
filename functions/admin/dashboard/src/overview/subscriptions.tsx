import { useState } from 'react';
import { useLive } from '../api/live';
import type { Subscription, Subscriptions } from '../api/types';
import { count, duration } from '../format';
import { useApi } from '../session';
import { useToast } from '../shell/toasts';
import { Action } from '../ui/action';
import { Badge } from '../ui/badge';
import { Confirm } from '../ui/confirm';
import { Icon } from '../ui/icons';
import { Empty, Loaded } from '../ui/states';
import { type Column, Table } from '../ui/table';
import { ReplayDialog } from './replay';

export function SubscriptionsPanel() {
  const api = useApi();
  const toast = useToast();
  const subscriptions = useLive<Subscriptions>('/api/subscriptions', 5_000);
  const [asked, setAsked] = useState<Subscription | null>(null);
  const [replayed, setReplayed] = useState<string | null>(null);

  async function change({ name, paused }: Subscription) {
    await api.send('POST', `/api/subscriptions/${encodeURIComponent(name)}/${paused ? 'resume' : 'pause'}`);
    setAsked(null);
    subscriptions.reload();
    toast({ tone: 'good', title: `${name} is ${paused ? 'resumed' : 'paused'}` });
  }

  return (
    <section className="panel" aria-labelledby="subscriptions-heading">
      <div className="panel-head">
        <h2 id="subscriptions-heading">Subscriptions</h2>
        <p className="hint">Readers of the log, each with its position</p>
      </div>
      <Loaded of={subscriptions} lines={2}>
        {({ subscriptions: rows }) =>
          rows.length > 0 ? (
            <Table caption="Subscriptions" columns={columns(setAsked, setReplayed)} rows={rows} id={({ name }) => name} />
          ) : (
            <Empty title="Nobody reads the log">The migrations make the subscriptions: run them.</Empty>
          )
        }
      </Loaded>
      {replayed && <ReplayDialog subscription={replayed} onClose={() => setReplayed(null)} />}
      {asked && (
        <Confirm
          title={`${asked.paused ? 'Resume' : 'Pause'} ${asked.name}?`}
          action={asked.paused ? 'Resume' : 'Pause'}
          isDangerous={!asked.paused}
          onConfirm={() => change(asked)}
          onClose={() => setAsked(null)}
        >
          {asked.paused ? (
            <p>It goes on where it was. Rows that wait for it are read as fast as its target takes them.</p>
          ) : (
            <p>
              It reads nothing until it is resumed. Writes go on and wait in the log, which keeps all rows as long as it
              is paused.
            </p>
          )}
        </Confirm>
      )}
    </section>
  );
}

/** A step of the drain, by its first version, and how old it is, or what it carries. */
function Step({
  version,
  age,
  none,
  suffix = '',
}: {
  version: number | null;
  age: number | null;
  none: string;
  suffix?: string;
}) {
  if (version === null) return <>{none}</>;
  return (
    <>
      {duration(age ?? 0)}
      {suffix} <span className="mono hint">{version}</span>
    </>
  );
}

function columns(ask: (subscription: Subscription) => void, replay: (name: string) => void): Column<Subscription>[] {
  return [
    { name: 'Name', cell: ({ name }) => <strong>{name}</strong> },
    {
      name: 'State',
      cell: ({ paused }) => <Badge tone={paused ? 'warn' : 'good'}>{paused ? 'Paused' : 'Reading'}</Badge>,
    },
    { name: 'Waiting rows', kind: 'number', cell: ({ pending_rows }) => count(pending_rows) },
    {
      name: 'Oldest',
      kind: 'number',
      cell: ({ oldest_pending_ms }) => (oldest_pending_ms === null ? 'none' : duration(oldest_pending_ms)),
    },
    {
      name: 'Sent',
      cell: ({ sent, sent_ms_ago }) => <Step version={sent} age={sent_ms_ago} none="nothing" suffix=" ago" />,
    },
    {
      name: 'Not landed',
      cell: ({ frontier, oldest_flight_ms }) => <Step version={frontier} age={oldest_flight_ms} none="none" />,
    },
    { name: 'Lag', kind: 'number', cell: ({ lag_ms }) => (lag_ms === 0 ? 'none' : duration(lag_ms)) },
    { name: 'Position', cell: ({ position }) => <code className="wrap">{position}</code> },
    {
      name: 'Replay, pause or resume',
      isNameHidden: true,
      kind: 'actions',
      cell: (subscription) => (
        <div className="side-by-side">
          {subscription.name !== 'fan_out' && (
            <Action
              className="button small"
              aria-label={`Replay to ${subscription.name}`}
              onClick={() => replay(subscription.name)}
            >
              Replay
            </Action>
          )}
          <Action
            className="button small"
            aria-label={`${subscription.paused ? 'Resume' : 'Pause'} ${subscription.name}`}
            onClick={() => ask(subscription)}
          >
            <Icon name={subscription.paused ? 'play' : 'pause'} />
            {subscription.paused ? 'Resume' : 'Pause'}
          </Action>
        </div>
      ),
    },
  ];
}
