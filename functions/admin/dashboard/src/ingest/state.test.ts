import { expect, it } from 'vitest';
import type { Position } from '../api/types';
import { ever, stateOf } from './state';

const NOW = Date.parse('2026-03-01T12:00:00Z');

function position(changes: Partial<Position>): Position {
  return {
    source: 'profiles',
    origin: 'profiles.example.com/users/changes',
    since: null,
    chain_pages: 0,
    last_run_at: null,
    ends_by: null,
    last_success_at: null,
    last_duration_ms: null,
    last_counts: null,
    last_error: null,
    last_error_at: null,
    failures: 0,
    not_before: null,
    requested_at: null,
    ...changes,
  };
}

it('a failure is told before what waits, and what was asked for before both', () => {
  const failed = { failures: 3, chain_pages: 2, not_before: '2026-03-01T12:01:00Z' };
  expect(stateOf(position({ ...failed, requested_at: '2026-03-01T11:59:59Z' }), NOW).tone).toBe('wait');
  expect(stateOf(position(failed), NOW)).toEqual({ tone: 'bad', words: 'The last 3 rounds failed' });
  expect(stateOf(position({ ...failed, failures: 1 }), NOW).words).toBe('The last round failed');
});

it('a source is left alone until then, and no longer', () => {
  expect(stateOf(position({ not_before: '2026-03-01T12:00:01Z' }), NOW).tone).toBe('warn');
  expect(stateOf(position({ not_before: '2026-03-01T12:00:00Z' }), NOW).tone).toBe('good');
});

it('a round that should have ended was killed', () => {
  expect(stateOf(position({ ends_by: '2026-03-01T12:00:01Z' }), NOW).tone).toBe('good');
  expect(stateOf(position({ ends_by: '2026-03-01T11:59:59Z', chain_pages: 1 }), NOW)).toEqual({
    tone: 'bad',
    words: 'The last round was killed',
  });
});

it('an error that is over is no state', () => {
  const over = { last_error: 'the origin answered 500', last_error_at: '2026-03-01T11:00:00Z' };
  expect(stateOf(position(over), NOW)).toEqual({ tone: 'good', words: 'Read to the end' });
  expect(stateOf(position({ ...over, chain_pages: 1 }), NOW).words).toBe('1 page read, more to come');
});

it('rejects of every kind are added up', () => {
  const totals = {
    fetched: 10,
    synced: 4,
    skipped_outdated: 1,
    skipped_duplicate: 2,
    rejected_invalid: 2,
    rejected_conflict: 1,
    rejects_dropped: 0,
    rounds_failed: 7,
  };
  expect(ever({ positions: [], totals, open_rejects: 0 })).toEqual({
    fetched: 10,
    synced: 4,
    outdated: 1,
    duplicate: 2,
    rejected: 3,
  });
});
