import { describe, expect, it } from 'vitest';
import { ceiling, nearest, perMinute, trace } from './geometry';

describe('the top of a chart', () => {
  it.each([
    [[3], 10, 10],
    [[99, 101], 10, 200],
    [[null, 230], 10, 250],
    [[4_000], 10, 5_000],
    [[1_000], 10, 1_000],
    [[], 100, 100],
  ])('%j, at least %i, is %i', (values, least, top) => {
    expect(ceiling(values, least)).toBe(top);
  });
});

describe('a trace', () => {
  const frame = { from: 0, to: 1_000_000, top: 10 };

  it('goes through its values', () => {
    expect(trace(frame, [0, 10_000], [0, 5])).toEqual({ line: 'M0 100L1 50', dots: '' });
  });

  it('breaks where a value or some samples are missing', () => {
    const { line, dots } = trace(frame, [0, 10_000, 20_000, 30_000, 500_000, 510_000], [1, null, 1, 1, 1, 1]);
    expect(line).toBe('M2 90L3 90M50 90L51 90');
    expect(dots).toBe('M0 90h0');
  });

  it('leaves out what was before', () => {
    expect(trace(frame, [-10_000, 0, 10_000], [1, 1, 1]).line).toBe('M0 90L1 90');
  });
});

it('the sample nearest to the pointer', () => {
  expect(nearest([0, 10, 20], 14)).toBe(1);
  expect(nearest([0, 10, 20], 900)).toBe(2);
  expect(nearest([], 5)).toBe(-1);
});

it('counts are a minute’s, whatever the time between the samples', () => {
  expect(perMinute([0, 15_000, 75_000], [5, 10, 10])).toEqual([null, 40, 10]);
});
