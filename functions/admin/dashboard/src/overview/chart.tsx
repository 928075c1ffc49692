import { type PointerEvent, useState } from 'react';
import { timeOfDay } from '../format';
import { Time, useNow } from '../ui/time';
import { ceiling, type Frame, nearest, SIZE, type Trace, trace, type Value, x } from './geometry';

const HOUR_MS = 3_600_000;

export interface Series {
  name: string;
  values: Value[];
}

interface Props {
  title: string;
  at: number[];
  /** The first is the one that matters most. */
  series: Series[];
  format: (value: number) => string;
  /** What a quiet hour is drawn against: without it, noise would fill the chart. */
  least: number;
}

export function Chart({ title, at, series, format, least }: Props) {
  const [cursor, setCursor] = useState<number | null>(null);
  const now = useNow();
  // By the server's clock when ours is behind it.
  const to = Math.max(at.at(-1) ?? now, now);
  const frame: Frame = {
    from: to - HOUR_MS,
    to,
    top: ceiling(
      series.flatMap(({ values }) => values),
      least,
    ),
  };
  const shown = cursor !== null && cursor < at.length ? cursor : at.length - 1;
  const shownAt = at[shown];

  const point = (event: PointerEvent) => {
    const { left, width } = event.currentTarget.getBoundingClientRect();
    setCursor(nearest(at, frame.from + ((event.clientX - left) / width) * HOUR_MS));
  };

  return (
    <figure className="chart">
      <figcaption>
        <h3>{title}</h3>
        {shownAt !== undefined && (
          <span className="chart-at">
            {cursor === null ? <Time at={new Date(shownAt).toISOString()} /> : timeOfDay(shownAt)}
          </span>
        )}
        <ul className="legend">
          {series.map(({ name, values }, index) => (
            <li key={name} className={`series-${index}`}>
              <svg viewBox="0 0 20 8" aria-hidden="true">
                <path className="line" d="M1 4H19" />
              </svg>
              {name} <strong>{said(values[shown] ?? null, format)}</strong>
            </li>
          ))}
        </ul>
      </figcaption>
      <div className="plot">
        <span className="y-label">{format(frame.top)}</span>
        <svg
          viewBox={`0 0 ${SIZE} ${SIZE}`}
          preserveAspectRatio="none"
          role="img"
          aria-label={summary(title, series, format)}
          onPointerMove={point}
          onPointerLeave={() => setCursor(null)}
        >
          {[0, SIZE / 2, SIZE].map((y) => (
            <path key={y} className="grid" d={`M0 ${y}H${SIZE}`} />
          ))}
          {series.map(({ name, values }, index) => (
            <Drawn key={name} className={`series-${index}`} trace={trace(frame, at, values)} />
          ))}
          {cursor !== null && shownAt !== undefined && (
            <path className="cursor" d={`M${x(frame, shownAt)} 0V${SIZE}`} />
          )}
        </svg>
      </div>
      <div className="x-labels" aria-hidden="true">
        <span>{timeOfDay(frame.from).slice(0, 5)}</span>
        <span>{timeOfDay((frame.from + frame.to) / 2).slice(0, 5)}</span>
        <span>{timeOfDay(frame.to).slice(0, 5)}</span>
      </div>
    </figure>
  );
}

function Drawn({ className, trace: { line, dots } }: { className: string; trace: Trace }) {
  return (
    <g className={className}>
      <path className="line" d={line} />
      <path className="dots" d={dots} />
    </g>
  );
}

function summary(title: string, series: Series[], format: (value: number) => string): string {
  const parts = series.map(({ name, values }) => {
    const known = values.filter((value) => value !== null);
    const highest = known.length > 0 ? Math.max(...known) : null;
    return `${name}: last ${said(values.at(-1) ?? null, format)}, highest ${said(highest, format)}`;
  });
  return `${title} in the last hour. ${parts.join('; ')}.`;
}

function said(value: Value, format: (value: number) => string): string {
  return value === null ? 'none' : format(value);
}
