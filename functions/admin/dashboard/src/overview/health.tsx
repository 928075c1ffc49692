import { useHealth } from '../api/live';
import type { Part, Pipeline } from '../api/types';
import { count, duration } from '../format';
import { formatRoute } from '../route';
import { Badge } from '../ui/badge';
import { Loaded } from '../ui/states';

const NAMES: Record<string, string> = { postgresql: 'PostgreSQL', sqs: 'SQS', elasticsearch: 'Elasticsearch' };

export function HealthPanel() {
  const health = useHealth();
  return (
    <section className="panel" aria-labelledby="health-heading">
      <div className="panel-head">
        <h2 id="health-heading">Health</h2>
        {health.data && (
          <Badge tone={health.data.status === 'ok' ? 'good' : 'bad'}>
            {health.data.status === 'ok' ? 'All parts answer' : 'Degraded'}
          </Badge>
        )}
      </div>
      <Loaded of={health} lines={3}>
        {({ parts, streams, pipeline }) => (
          <>
            <ul className="parts">
              {parts.map((part) => (
                <PartCard key={part.name} part={part} />
              ))}
            </ul>
            {streams.map(({ stream, subscription, reason }) => (
              <p key={`${stream} ${subscription}`} className="hint pad">
                <Badge tone="bad">{stream}</Badge> to {subscription}: {reason}
              </p>
            ))}
            {pipeline ? (
              <Tiles pipeline={pipeline} />
            ) : (
              <p className="hint pad">What waits is unknown while a part does not answer.</p>
            )}
          </>
        )}
      </Loaded>
    </section>
  );
}

function PartCard({ part: { name, ok, latency_ms, reason } }: { part: Part }) {
  return (
    <li className={ok ? 'part' : 'part is-down'}>
      <h3>{NAMES[name] ?? name}</h3>
      <Badge tone={ok ? 'good' : 'bad'}>{ok ? 'Healthy' : 'Failing'}</Badge>
      <span className="latency" title="How long its answer took">
        {duration(latency_ms)}
      </span>
      {reason && <p>{reason}</p>}
    </li>
  );
}

function Tiles({ pipeline: { pending_rows, lag_ms, queue_depth, dead_letters } }: { pipeline: Pipeline }) {
  return (
    <dl className="tiles">
      <div>
        <dt>Waiting in the log</dt>
        <dd>{count(pending_rows)}</dd>
      </div>
      <div>
        <dt title="For how long the oldest change that has not arrived at a target has been in the log, sent or not">
          Lag
        </dt>
        <dd>{lag_ms === 0 ? 'none' : duration(lag_ms)}</dd>
      </div>
      {queue_depth !== null && (
        <div>
          <dt>In the queue</dt>
          <dd>{count(queue_depth)}</dd>
        </div>
      )}
      <div>
        <dt>Dead letters</dt>
        <dd>{dead_letters > 0 ? <a href={formatRoute('dead-letters')}>{count(dead_letters)}</a> : '0'}</dd>
      </div>
    </dl>
  );
}
