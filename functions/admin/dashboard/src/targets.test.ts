import { expect, it } from 'vitest';
import { isTarget, placeAt, streamIn, titleOf } from './targets';

it('a target has its title, what a stream has there, and no name of an object', () => {
  expect(['elasticsearch', 'clickhouse', 'kafka', 'sync'].map(titleOf)).toEqual(['Elasticsearch', 'ClickHouse', 'Kafka', 'Live sync']);
  expect(['elasticsearch', 'clickhouse', 'kafka', 'sync'].map(placeAt)).toEqual(['index', 'table', 'topic', 'store']);
  expect(['fan_out', 'toString', ''].filter(isTarget)).toEqual([]);
  expect(titleOf('fan_out')).toBe('fan_out');
  expect(['elasticsearch', 'clickhouse'].map((target) => streamIn('users', target))).toEqual(['users', 'users in ClickHouse']);
});
