/** Chance, by a seed: it decides which of the things that are under way happens next, and what goes wrong. Time goes on by timers alone. */

const globals = { setTimeout, clearTimeout, random: Math.random, now: Date.now, timeout: AbortSignal.timeout };

export class World {
  /** Milliseconds. */
  now = 0;
  /** What must never be. */
  violation: Error | undefined;
  /** While false, nothing fails. */
  isRough = true;
  private state: number;
  private underWay: (() => void)[] = [];
  private timers: { at: number; run: () => void }[] = [];

  constructor(seed: number) {
    this.state = (seed * 2654435761 + 1) >>> 0;
  }

  /** From 0 to below 1: mulberry32. */
  readonly random = (): number => {
    this.state = (this.state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(this.state ^ (this.state >>> 15), this.state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };

  chance(probability: number): boolean {
    return this.random() < probability;
  }

  /** A fault, which happens in rough times alone. */
  fails(probability: number): boolean {
    return this.isRough && this.chance(probability);
  }

  pick<T>(list: readonly T[]): T | undefined {
    return list[Math.floor(this.random() * list.length)];
  }

  /** Happens at some time. */
  later(run: () => void): void {
    this.underWay.push(run);
  }

  /** Some time passes. */
  pause(): Promise<void> {
    return new Promise((resolve) => this.later(resolve));
  }

  /** One thing happens, with all that follows at once. */
  async step(): Promise<void> {
    const isTimer = this.timers.length > 0 && (this.underWay.length === 0 || this.fails(0.1));
    if (isTimer) {
      const { at, run } = this.timers.reduce((first, timer) => (timer.at < first.at ? timer : first));
      this.timers = this.timers.filter((timer) => timer.run !== run);
      this.now = Math.max(this.now, at);
      run();
    } else {
      const [run] = this.underWay.splice(Math.floor(this.random() * this.underWay.length), 1);
      if (!run) this.now += 1000;
      run?.();
    }
    await new Promise((resolve) => setImmediate(resolve));
    if (this.violation) throw this.violation;
  }

  /** With the clock and the chance of this world, which the client asks the runtime for. */
  async within<T>(run: () => Promise<T>): Promise<T> {
    Object.assign(globalThis, {
      setTimeout: (run: () => void, ms = 0) => {
        const timer = { at: this.now + ms, run: () => run() };
        this.timers.push(timer);
        return timer;
      },
      clearTimeout: (timer: unknown) => {
        this.timers = this.timers.filter((other) => other !== timer);
      },
    });
    Math.random = this.random;
    Date.now = () => this.now;
    AbortSignal.timeout = () => new AbortController().signal;
    try {
      return await run();
    } finally {
      Object.assign(globalThis, { setTimeout: globals.setTimeout, clearTimeout: globals.clearTimeout });
      Math.random = globals.random;
      Date.now = globals.now;
      AbortSignal.timeout = globals.timeout;
    }
  }
}
