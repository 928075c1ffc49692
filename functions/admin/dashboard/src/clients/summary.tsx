import type { LiveSync } from '../api/types';
import { count, duration, plural } from '../format';
import { formatRoute } from '../route';
import { Badge } from '../ui/badge';

export function Summary({ sync }: { sync: LiveSync }) {
  const { streams, connected, buckets, items, is_estimate, accounts, paused, pending_rows, lag_ms } = sync;
  const about = is_estimate ? 'about ' : '';
  return (
    <section className="panel" aria-labelledby="live-sync-heading">
      <div className="panel-head">
        <h2 id="live-sync-heading">Live sync</h2>
        {paused && (
          <Badge tone="warn">
            <a href={formatRoute('overview')}>Paused</a>
          </Badge>
        )}
        <p className="hint">{plural(streams.length, 'stream goes', 'streams go')} to clients</p>
      </div>
      <dl className="tiles">
        <div>
          <dt title="By a WebSocket, which says when to pull; others pull every 30 seconds, and are not counted">Connected</dt>
          <dd>{count(connected)}</dd>
          {accounts !== null && <dd className="hint">{plural(accounts, 'account')}</dd>}
        </div>
        <div>
          <dt title={is_estimate ? 'An estimate: there are very many' : undefined}>Buckets</dt>
          <dd>
            {about}
            {count(buckets)}
          </dd>
          <dd className="hint">
            {about}
            {plural(items, 'item')}
          </dd>
        </div>
        <div>
          <dt title="For how long the oldest change that clients cannot pull yet has been in the log">Behind by</dt>
          <dd>{lag_ms === 0 ? 'nothing' : duration(lag_ms)}</dd>
          {pending_rows > 0 && <dd className="hint">{plural(pending_rows, 'row waits', 'rows wait')}</dd>}
        </div>
        <div>
          <dt title="Changes of clients that had another document than there was">Conflicts</dt>
          <dd>{count(sync.conflicts)}</dd>
          <dd className="hint">{count(sync.conflicts_of_day)} in the last day</dd>
        </div>
      </dl>
    </section>
  );
}
