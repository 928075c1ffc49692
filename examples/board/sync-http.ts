/** What the client of live sync and that of its accounts ask, and the two ways in which that fails. */

export type Answer = { status: number; etag: string | null; text: string };

/** RFC 9457; `buckets` is of a cursor that is of no use any more. */
export type Problem = { detail?: string; buckets?: object[] };

/** The server answers, and not with what was asked for. */
export class Refused extends Error {
  constructor(readonly status: number, readonly retryAfterMs: number, readonly problem: Problem) {
    super(problem.detail ?? `the server answers ${status}`);
  }
}

/** There was no answer, or not all of it: nobody knows what was done. */
export class NoAnswer extends Error {}

/** Throws `Refused` or `NoAnswer`. */
export async function ask(fetch: typeof globalThis.fetch, url: string, init: RequestInit, timeoutMs: number): Promise<Answer> {
  let answer: Response;
  let text: string;
  try {
    answer = await fetch(url, { ...init, signal: AbortSignal.timeout(timeoutMs) });
    text = await answer.text();
  } catch (error) {
    throw new NoAnswer('the server does not answer', { cause: error });
  }
  const { status, headers } = answer;
  if (answer.ok || status === 304) return { status, etag: headers.get('ETag'), text };
  let problem = {};
  try {
    problem = JSON.parse(text);
  } catch {} // a proxy's page
  throw new Refused(status, 1000 * Number(headers.get('Retry-After') ?? 0), problem);
}

/** Throws `NoAnswer` where it is not whole. */
export function parse<T>(text: string): T {
  try {
    return JSON.parse(text) as T;
  } catch (error) {
    throw new NoAnswer('the answer was cut off', { cause: error });
  }
}
