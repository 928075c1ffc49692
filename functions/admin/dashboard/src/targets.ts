import type { Target } from './api/types';

/** Where changes are delivered: each has a subscription of its name. */
export const TARGETS: Record<Target, string> = {
  elasticsearch: 'Elasticsearch',
  clickhouse: 'ClickHouse',
  kafka: 'Kafka',
  sync: 'Live sync',
};

export function isTarget(name: string): name is Target {
  return Object.hasOwn(TARGETS, name);
}

export function titleOf(target: string): string {
  return isTarget(target) ? TARGETS[target] : target;
}

/** A stream there; Elasticsearch goes without saying. */
export function streamIn(stream: string, target: string): string {
  return target === 'elasticsearch' ? stream : `${stream} in ${titleOf(target)}`;
}

/** What a stream has there. */
export function placeAt(target: string): string {
  return target === 'clickhouse' ? 'table' : target === 'kafka' ? 'topic' : target === 'sync' ? 'store' : 'index';
}
