import { connection } from './connection';

/** An answer that says no, as RFC 9457 has it or as well as another form can be read. */
export class Problem extends Error {
  readonly status: number;
  readonly title: string;
  readonly body: unknown;

  constructor(status: number, title: string, detail: string, body?: unknown) {
    super(detail);
    this.name = 'Problem';
    this.status = status;
    this.title = title;
    this.body = body;
  }
}

/** No answer came: nobody knows whether the request was carried out. */
export class Unreachable extends Error {
  constructor() {
    super('No answer came from the server. Check your connection, and that the admin function runs.');
    this.name = 'Unreachable';
  }
}

export interface Api {
  get<T>(path: string): Promise<T>;
  /** The answer as it was written, with all digits of its numbers. */
  text(path: string): Promise<string>;
  send<T>(method: 'POST' | 'DELETE', path: string, body?: unknown): Promise<T>;
}

const READ_TIMEOUT_MS = 20_000;
// A redrive works for up to 20 seconds within the request.
const WRITE_TIMEOUT_MS = 60_000;

export function createApi(token: string, onRefused: (problem: Problem) => void = () => {}): Api {
  async function request(method: string, path: string, timeout: number, body?: unknown) {
    const headers = new Headers({ accept: 'application/json', authorization: `Bearer ${token}` });
    if (body !== undefined) {
      headers.set('content-type', 'application/json');
    }
    let status: number;
    let text: string;
    try {
      const response = await fetch(path, {
        method,
        headers,
        body: body === undefined ? null : JSON.stringify(body),
        cache: 'no-store',
        signal: AbortSignal.timeout(timeout),
      });
      status = response.status;
      text = await response.text();
    } catch {
      connection.lost();
      throw new Unreachable();
    }
    connection.restored();

    const answer = parsed(text);
    if (status >= 200 && status < 300 && answer !== undefined) {
      return { answer, text };
    }
    const problem = problemOf(status, answer);
    if (status === 401) {
      onRefused(problem);
    }
    throw problem;
  }

  return {
    get: async <T>(path: string) => (await request('GET', path, READ_TIMEOUT_MS)).answer as T,
    text: async (path) => (await request('GET', path, READ_TIMEOUT_MS)).text,
    send: async <T>(method: string, path: string, body?: unknown) =>
      (await request(method, path, WRITE_TIMEOUT_MS, body)).answer as T,
  };
}

/** The path with those parameters that say something. */
export function url(path: string, params: Record<string, string | number | null | undefined>): string {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(params)) {
    if (value !== null && value !== undefined && value !== '') {
      query.set(name, String(value));
    }
  }
  return query.size > 0 ? `${path}?${query}` : path;
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function problemOf(status: number, answer: unknown): Problem {
  if (status < 400) {
    return new Problem(status, 'Unexpected answer', `The server answered ${status} with something that is not JSON.`);
  }
  const { title, detail } = (answer ?? {}) as { title?: unknown; detail?: unknown };
  return new Problem(
    status,
    typeof title === 'string' ? title : `Error ${status}`,
    typeof detail === 'string' ? detail : `The server answered ${status} and gave no reason.`,
    answer,
  );
}
