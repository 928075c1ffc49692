import { useLive } from '../api/live';
import type { LiveSync } from '../api/types';
import { formatRoute, replaceRoute, useRoute } from '../route';
import { StreamSelect } from '../ui/filters';
import { Empty, Loaded } from '../ui/states';
import { Buckets } from './buckets';
import { Conflicts } from './conflicts';
import { Summary } from './summary';

export function Clients() {
  const sync = useLive<LiveSync>('/api/sync', 5_000);
  const { stream = '' } = useRoute().filters;
  return (
    <Loaded of={sync} lines={3}>
      {(told) =>
        told.streams.length > 0 ? (
          <div className="stack">
            <Summary sync={told} />
            {(told.streams.length > 1 || stream !== '') && (
              <div className="narrow" role="search" aria-label="Buckets and conflicts">
                <StreamSelect
                  value={stream}
                  streams={told.streams}
                  onChange={(value) => replaceRoute(formatRoute('clients', { stream: value }))}
                />
              </div>
            )}
            <Buckets stream={stream} />
            <Conflicts stream={stream} />
          </div>
        ) : (
          <section className="panel">
            <Empty title="No stream goes to clients">
              <code>sluice.define_bucket</code> has one go there.
            </Empty>
          </section>
        )
      }
    </Loaded>
  );
}
