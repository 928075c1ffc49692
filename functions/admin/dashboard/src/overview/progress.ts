/** The stream that a name is a generation of: `books` of `books.g2`. */
export function baseOf(name: string): string {
  return name.replace(/\.g\d+$/, '');
}

/** How much of the source's rows was read, and in words how long the rest takes at the same pace. */
export function done(logged: number, rows: number | null, begunAt: string | null, now: number): { share: number | null; left?: string } {
  if (!rows || rows < logged) {
    return { share: null };
  }
  const share = logged / rows;
  const passed = begunAt === null ? 0 : now - Date.parse(begunAt);
  if (logged === 0 || passed <= 0) {
    return { share };
  }
  const minutes = Math.ceil((passed * (1 - share)) / share / 60_000);
  return { share, left: minutes > 1 ? `about ${minutes} minutes left` : 'about a minute left' };
}
