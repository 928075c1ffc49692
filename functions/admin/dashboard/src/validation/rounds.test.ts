import { expect, it } from 'vitest';
import type { DifferenceClass } from '../api/types';
import { isRepairable, phaseOf, portions, repairable, summary, toneOf } from './rounds';

const of = (name: string, state: string, count = 1): DifferenceClass => ({ class: name, state, count, keys: null });

it('a repair takes what is confirmed or stuck, if it helps to write the document again', () => {
  expect(isRepairable(of('missing', 'confirmed'))).toBe(true);
  expect(isRepairable(of('version_ahead', 'stuck'))).toBe(true);
  for (const other of [of('missing', 'candidate'), of('stale', 'repairing'), of('extra', 'repaired'), of('dead_lettered', 'confirmed')]) {
    expect(isRepairable(other)).toBe(false);
  }
  expect(repairable([of('missing', 'confirmed', 3), of('stale', 'stuck', 4), of('unreadable', 'confirmed', 5)])).toBe(7);
});

it('what is explained or repaired is told apart from what is to be repaired', () => {
  expect(toneOf(of('missing', 'confirmed'))).toBe('bad');
  expect(toneOf(of('missing', 'repaired'))).toBe('good');
  expect(toneOf(of('missing', 'candidate'))).toBe('wait');
  expect(toneOf(of('dead_lettered', 'confirmed'))).toBe('warn');
  expect(summary(of('version_ahead', 'stuck', 1200)).replaceAll('\u202f', ' ')).toBe('1 200 version ahead, stuck');
  expect(summary(of('waiting', 'confirmed', 2))).toBe('2 waiting');
});

it('a round says what it searches', () => {
  const searching = ['elasticsearch', 'clickhouse'].map((subscription) => phaseOf({ state: 'index', subscription }).words);
  expect(searching).toEqual(['Searching the index', 'Searching the table']);
});

it('keys are sent in portions that a request takes, each of them once', () => {
  const keys = Array.from({ length: 3_000 }, (_, number) => `${number}-${'é'.repeat(number % 40)}`);
  const parts = portions(keys);
  expect(parts.flat()).toEqual(keys);
  expect(parts.length).toBeGreaterThan(1);
  for (const part of parts) {
    expect(new TextEncoder().encode(JSON.stringify(part)).length).toBeLessThan(60_000);
  }
  expect(portions([])).toEqual([]);
  expect(portions(['x'.repeat(100_000), 'y'])).toHaveLength(2);
});
