import { useState } from 'react';
import { url } from '../api/client';
import { useLive } from '../api/live';
import type { History, Sample, Subscriptions } from '../api/types';
import { count, duration } from '../format';
import { isTarget } from '../targets';
import { TargetFilter } from '../ui/filters';
import { Empty, Loaded } from '../ui/states';
import { Chart } from './chart';
import { perMinute } from './geometry';

export function Charts() {
  const [subscription, setSubscription] = useState('elasticsearch');
  const history = useLive<History>(url('/api/history', { minutes: 60, subscription }), 5_000);
  const known = useLive<Subscriptions>('/api/subscriptions', 5_000).data?.subscriptions ?? [];
  const names = known.map(({ name }) => name).filter(isTarget);
  return (
    <section className="panel" aria-labelledby="charts-heading">
      <div className="panel-head">
        <h2 id="charts-heading">Last hour</h2>
        <p className="hint">A sample about each 15 s</p>
        {names.length > 1 && <TargetFilter value={subscription} targets={names} onChange={setSubscription} />}
      </div>
      <Loaded of={history} lines={6}>
        {({ samples }) =>
          samples.length > 0 ? (
            <Drawn samples={samples} />
          ) : (
            <Empty title="No samples yet">The first one comes within a minute after the deploy.</Empty>
          )
        }
      </Loaded>
    </section>
  );
}

const rounded = (value: number) => count(value < 10 ? value : Math.round(value));

function Drawn({ samples }: { samples: Sample[] }) {
  const at = samples.map((sample) => Date.parse(sample.at));
  const rate = (name: 'processed' | 'failed' | 'dead_lettered') =>
    perMinute(
      at,
      samples.map((sample) => sample[name]),
    );
  // A fault that did not happen needs no line, which would only hide where one did.
  const faults = (name: 'failed' | 'dead_lettered') => rate(name).map((value) => value || null);
  return (
    <div className="charts">
      <Chart
        title="Lag, commit to written"
        at={at}
        least={100}
        format={duration}
        series={[
          { name: 'p50', values: samples.map(({ p50_ms }) => p50_ms) },
          { name: 'p95', values: samples.map(({ p95_ms }) => p95_ms) },
        ]}
      />
      <Chart
        title="Throughput, a minute"
        at={at}
        least={10}
        format={rounded}
        series={[
          { name: 'Processed', values: rate('processed') },
          { name: 'Failed', values: faults('failed') },
          { name: 'Dead-lettered', values: faults('dead_lettered') },
        ]}
      />
      <Chart
        title="Backlog in the log"
        at={at}
        least={10}
        format={count}
        series={[{ name: 'Rows', values: samples.map(({ pending_rows }) => pending_rows) }]}
      />
    </div>
  );
}
