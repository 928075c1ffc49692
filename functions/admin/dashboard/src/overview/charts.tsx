import { useLive } from '../api/live';
import type { History, Sample } from '../api/types';
import { count, duration } from '../format';
import { Empty, Loaded } from '../ui/states';
import { Chart } from './chart';
import { perMinute } from './geometry';

export function Charts() {
  const history = useLive<History>('/api/history?minutes=60', 5_000);
  return (
    <section className="panel" aria-labelledby="charts-heading">
      <div className="panel-head">
        <h2 id="charts-heading">Last hour</h2>
        <p className="hint">A sample about each 15 s</p>
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

function Drawn({ samples }: { samples: Sample[] }) {
  const at = samples.map((sample) => Date.parse(sample.at));
  const of = (name: keyof Omit<Sample, 'at'>) => samples.map((sample) => sample[name]);
  const rate = (name: 'processed' | 'failed' | 'dead_lettered') =>
    perMinute(
      at,
      samples.map((sample) => sample[name]),
    );
  return (
    <div className="charts">
      <Chart
        title="Lag, commit to indexed"
        at={at}
        least={100}
        format={duration}
        series={[
          { name: 'p50', values: of('p50_ms') },
          { name: 'p95', values: of('p95_ms') },
        ]}
      />
      <Chart
        title="Throughput, a minute"
        at={at}
        least={10}
        format={count}
        series={[
          { name: 'Processed', values: rate('processed') },
          { name: 'Failed', values: rate('failed') },
          { name: 'Dead-lettered', values: rate('dead_lettered') },
        ]}
      />
      <Chart
        title="Backlog in the log"
        at={at}
        least={10}
        format={count}
        series={[{ name: 'Rows', values: of('pending_rows') }]}
      />
    </div>
  );
}
