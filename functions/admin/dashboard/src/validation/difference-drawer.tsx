import useSWR from 'swr';
import { url } from '../api/client';
import type { Difference } from '../api/types';
import { formatRoute } from '../route';
import { useApi, useSession } from '../session';
import { placeAt, streamIn } from '../targets';
import { Action, useRequest } from '../ui/action';
import { Badge } from '../ui/badge';
import { Dialog } from '../ui/dialog';
import { Fact } from '../ui/fact';
import { Failure, Skeleton } from '../ui/states';
import { Time } from '../ui/time';
import { BothSides } from './both-sides';
import { type Both, read } from './documents';
import { CLASSES, isRepairable, STATES, toneOf, words } from './rounds';

interface Props {
  stream: string;
  target: string;
  difference: Difference;
  onRepair: () => Promise<void>;
  onClose: () => void;
}

export function DifferenceDrawer({ stream, target, difference, onRepair, onClose }: Props) {
  const api = useApi();
  const { role } = useSession();
  const { isBusy, error, run } = useRequest();
  const { key, class: name, state, found_at } = difference;
  const path = url(`/api/validation/${encodeURIComponent(stream)}`, { target, key });
  const sides = useSWR<Both, Error>(
    role === 'operator' ? { documents: path } : null,
    async () => ({ ...read(await api.text(path)), at: new Date().toISOString() }),
    { revalidateOnFocus: false, keepPreviousData: false },
  );

  return (
    <Dialog
      kind="drawer"
      isWide
      title={streamIn(`${stream} ${key}`, target)}
      onClose={onClose}
      footer={
        <Action
          className="button primary"
          disabled={isBusy || !isRepairable(difference)}
          title={isRepairable(difference) ? undefined : 'Only what is confirmed can be repaired, if it helps to write it again'}
          onClick={() => run(onRepair)}
        >
          {isBusy ? 'One moment…' : 'Repair'}
        </Action>
      }
    >
      {error && <Failure error={error} />}
      <dl className="facts">
        <Fact name="Class">{words(name)}</Fact>
        <Fact name="State">
          <Badge tone={toneOf(difference)}>{state}</Badge>
        </Fact>
        <Fact name="Found">
          <Time at={found_at} />
        </Fact>
        <Fact name={`Version in the ${placeAt(target)}`}>{sides.data?.version != null && <code>{sides.data.version}</code>}</Fact>
      </dl>
      <p>
        {CLASSES[name as keyof typeof CLASSES]} {STATES[state as keyof typeof STATES]}
      </p>
      <p>
        <a href={formatRoute('outbox', { stream, key })}>This key in the outbox</a>
      </p>
      <section aria-labelledby="difference-documents">
        <div className="section-head">
          <h3 id="difference-documents">Both sides</h3>
          {sides.data && (
            <span className="refresh">
              <span className="hint">
                Read <Time at={sides.data.at} />
              </span>
              <button type="button" className="button quiet" disabled={sides.isValidating} onClick={() => void sides.mutate()}>
                Read again
              </button>
            </span>
          )}
        </div>
        {role !== 'operator' ? (
          <p className="hint">The operator sees them.</p>
        ) : sides.data ? (
          <BothSides source={sides.data.source} target={sides.data.target} of={target} />
        ) : sides.error ? (
          <Failure error={sides.error} onRetry={() => void sides.mutate()} />
        ) : (
          <Skeleton lines={6} />
        )}
      </section>
    </Dialog>
  );
}
