export type Value = number | null;

/** The chart is drawn in a square of this size, whatever its size on the screen. */
export const SIZE = 100;

// Samples come each 15 seconds; when some are missing there is nothing to draw a line through.
const GAP_MS = 60_000;

/** The smallest of 1, 2, 2.5, 5 times a power of ten that is not below any value. */
export function ceiling(values: Value[], least: number): number {
  const highest = Math.max(least, ...values.map((value) => value ?? 0));
  const power = 10 ** Math.floor(Math.log10(highest));
  const step = [1, 2, 2.5, 5, 10].find((candidate) => candidate * power >= highest) ?? 10;
  return step * power;
}

export interface Frame {
  from: number;
  to: number;
  top: number;
}

export function x({ from, to }: Frame, at: number): number {
  return round(((at - from) / (to - from)) * SIZE);
}

export interface Trace {
  line: string;
  /** Values that no line leads to, as a fault in a quiet hour: a line of no length would hardly be seen. */
  dots: string;
}

/** A line through the values, with a break where there is none. */
export function trace(frame: Frame, at: number[], values: Value[]): Trace {
  const runs: string[][] = [];
  let last: number | null = null;
  at.forEach((time, index) => {
    const value = values[index] ?? null;
    if (value === null || time < frame.from) {
      last = null;
      return;
    }
    if (last === null || time - last > GAP_MS) {
      runs.push([]);
    }
    runs.at(-1)?.push(`${x(frame, time)} ${round(SIZE - (value / frame.top) * SIZE)}`);
    last = time;
  });
  return {
    line: runs
      .filter(({ length }) => length > 1)
      .map((run) => `M${run.join('L')}`)
      .join(''),
    dots: runs
      .filter(({ length }) => length === 1)
      .map((run) => `M${run.join('')}h0`)
      .join(''),
  };
}

export function nearest(at: number[], time: number): number {
  let best = -1;
  at.forEach((candidate, index) => {
    if (best < 0 || Math.abs(candidate - time) < Math.abs((at[best] ?? 0) - time)) {
      best = index;
    }
  });
  return best;
}

/** Counts since the sample before, as counts a minute. The first has no sample before it. */
export function perMinute(at: number[], counts: number[]): Value[] {
  return counts.map((count, index) => {
    const before = at[index - 1];
    const time = at[index];
    return before === undefined || time === undefined || time <= before ? null : (count * 60_000) / (time - before);
  });
}

function round(value: number): number {
  return Math.round(value * 100) / 100;
}
