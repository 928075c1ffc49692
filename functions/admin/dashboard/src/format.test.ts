import { describe, expect, it } from 'vitest';
import { absolute, ago, count, duration, plural } from './format';

// The thin separators as spaces, which are easier to read here.
const plain = (text: string) => text.replaceAll('\u202f', ' ');

describe('count', () => {
  it('parts its groups by thin spaces', () => {
    expect(count(1_234_567)).toBe('1\u202f234\u202f567');
    expect(count(999)).toBe('999');
  });
});

describe('plural', () => {
  it('is of one only for one', () => {
    expect([0, 1, 2].map((value) => plural(value, 'row'))).toEqual(['0 rows', '1 row', '2 rows']);
    expect(plural(2, 'entry', 'entries')).toBe('2 entries');
  });
});

describe('duration', () => {
  it.each([
    [0, '0 ms'],
    [999, '999 ms'],
    [1_250, '1.3 s'],
    [59_900, '59 s'],
    [60_000, '1 min'],
    [7_199_999, '1 h'],
    [172_800_000, '2 d'],
  ])('%i ms is %s', (ms, text) => {
    expect(plain(duration(ms))).toBe(text);
  });
});

describe('ago', () => {
  const now = Date.parse('2026-03-01T12:00:00Z');

  it.each([
    ['2026-03-01T11:59:59.5Z', 'now'],
    ['2026-03-01T11:59:48Z', '12 s ago'],
    ['2026-03-01T11:57:00Z', '3 min ago'],
    ['2026-02-28T12:00:00Z', '1 d ago'],
  ])('%s is %s', (iso, text) => {
    expect(plain(ago(iso, now))).toBe(text);
  });

  it('takes a time ahead of us for now, since it is a clock that is wrong', () => {
    expect(ago('2026-03-01T12:00:30Z', now)).toBe('now');
  });
});

it('an absolute time is in UTC, wherever it was written', () => {
  expect(absolute('2026-03-01T13:00:00.123+01:00')).toBe('2026-03-01 12:00:00 UTC');
});
