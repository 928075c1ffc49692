const THIN = '\u202f';
const NUMBER = new Intl.NumberFormat('en', { maximumFractionDigits: 1 });

const SECOND = 1_000;
const MINUTE = 60 * SECOND;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;

/** 1 234 567, its groups parted by thin spaces, which no locale reads as a decimal point. */
export function count(value: number): string {
  return NUMBER.format(value).replaceAll(',', THIN);
}

export function plural(value: number, one: string, many = `${one}s`): string {
  return `${count(value)} ${value === 1 ? one : many}`;
}

export function duration(ms: number): string {
  if (ms < SECOND) {
    return `${Math.round(ms)}${THIN}ms`;
  }
  if (ms < MINUTE) {
    // Below ten seconds the tenths are what is looked for; above they are noise.
    return `${ms < 10 * SECOND ? NUMBER.format(ms / SECOND) : Math.floor(ms / SECOND)}${THIN}s`;
  }
  return whole(ms);
}

/** How long ago it was. A time ahead of us is a clock's error: it is now. */
export function ago(iso: string, now: number): string {
  const age = now - Date.parse(iso);
  if (age < SECOND) {
    return 'now';
  }
  return `${age < MINUTE ? `${Math.floor(age / SECOND)}${THIN}s` : whole(age)} ago`;
}

export function absolute(iso: string): string {
  return `${new Date(iso).toISOString().slice(0, 19).replace('T', ' ')} UTC`;
}

export function timeOfDay(at: number): string {
  return new Date(at).toLocaleTimeString('en-GB');
}

export function json(value: unknown): string {
  return JSON.stringify(value, null, 2);
}

function whole(ms: number): string {
  if (ms < HOUR) {
    return `${Math.floor(ms / MINUTE)}${THIN}min`;
  }
  return ms < DAY ? `${Math.floor(ms / HOUR)}${THIN}h` : `${Math.floor(ms / DAY)}${THIN}d`;
}
