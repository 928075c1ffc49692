import { Charts } from './charts';
import { GenerationsPanel } from './generations';
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
      <GenerationsPanel />
    </div>
  );
}
