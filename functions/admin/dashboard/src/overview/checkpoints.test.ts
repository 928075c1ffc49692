import { expect, test } from 'vitest';
import type { Checkpoint } from '../api/types';
import { offered } from './checkpoints';

function checkpoint(at: string | null, more: Partial<Checkpoint> = {}): Checkpoint {
  return { subscription: 'elasticsearch', name: null, asked_at: at ?? '', at, left_out: [], problem: null, ...more };
}

test('the last minutes are offered, then one an hour, and each that has a name', () => {
  const minutes = Array.from({ length: 180 }, (_, minute) =>
    checkpoint(new Date(Date.UTC(2030, 0, 1, 12, 59) - minute * 60_000).toISOString()),
  );
  const named = checkpoint('2030-01-01T10:30:30.000Z', { name: 'before-import' });
  const times = offered([...minutes, named], 'elasticsearch').map(({ at }) => at.slice(11, 16));
  expect(times).toEqual(['12:59', '12:58', '12:57', '12:56', '12:55', '12:54', '11:59', '10:59', '10:30']);
});

test('what nothing can be replayed from is not offered', () => {
  const at = '2030-01-01T12:00:00.000Z';
  const useless = [checkpoint(null), checkpoint(at, { problem: 'it is of another cluster' }), checkpoint(at, { subscription: 'kafka' })];
  expect(offered(useless, 'elasticsearch')).toEqual([]);
});
