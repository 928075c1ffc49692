import { Charts } from './charts';
import { HealthPanel } from './health';
import { StreamsPanel } from './streams';
import { SubscriptionsPanel } from './subscriptions';

export function Overview() {
  return (
    <div className="stack">
      <HealthPanel />
      <Charts />
      <SubscriptionsPanel />
      <StreamsPanel />
    </div>
  );
}
