import { afterEach, describe, expect, it, vi } from 'vitest';
import { createApi, Problem, Unreachable, url } from './client';
import { connection } from './connection';

function answer(status: number, body: string) {
  const fetch = vi.fn(async (_path: string, _init: RequestInit) => new Response(body, { status }));
  vi.stubGlobal('fetch', fetch);
  return fetch;
}

async function failure(request: Promise<unknown>): Promise<unknown> {
  return request.then(
    () => expect.unreachable('It did not fail.'),
    (error: unknown) => error,
  );
}

afterEach(() => {
  vi.unstubAllGlobals();
  connection.restored();
});

describe('a request', () => {
  it('carries the token and the body', async () => {
    const fetch = answer(200, '{"result":"discarded"}');
    expect(await createApi('secret').send('DELETE', '/api/dlq/1', { reason: 'ours' })).toEqual({ result: 'discarded' });
    const [path, init] = fetch.mock.calls[0] ?? [];
    expect(path).toBe('/api/dlq/1');
    expect(init).toMatchObject({ method: 'DELETE', body: '{"reason":"ours"}' });
    expect((init?.headers as Headers).get('authorization')).toBe('Bearer secret');
  });

  it('without a body says nothing about its type', async () => {
    const fetch = answer(200, '{}');
    await createApi('secret').send('POST', '/api/add-user');
    expect((fetch.mock.calls[0]?.[1].headers as Headers).has('content-type')).toBe(false);
  });

  it('gives the answer as it was written, if somebody wants its digits', async () => {
    answer(200, '{"n": 1.10}');
    expect(await createApi('').text('/api/validation/books')).toBe('{"n": 1.10}');
    answer(404, '{"detail":"There is no such stream."}');
    expect(await failure(createApi('').text('/api/validation/none'))).toMatchObject({ status: 404 });
  });
});

describe('an answer that says no', () => {
  it('gives the detail of its problem', async () => {
    answer(409, '{"title":"Conflict","status":409,"detail":"It is in flight: try again."}');
    const problem = await failure(createApi('').get('/api/outbox'));
    expect(problem).toBeInstanceOf(Problem);
    expect(problem).toMatchObject({ status: 409, title: 'Conflict', message: 'It is in flight: try again.' });
  });

  it('gives its status when it is no problem document', async () => {
    answer(502, '<html>Bad Gateway</html>');
    expect(await failure(createApi('').get('/api/outbox'))).toMatchObject({ status: 502, title: 'Error 502' });
  });

  it('is a problem too when it is a success without JSON', async () => {
    answer(200, '<html>Sign in to the hotel</html>');
    expect(await failure(createApi('').get('/api/outbox'))).toBeInstanceOf(Problem);
  });

  it('ends the session only when the token is refused', async () => {
    const onRefused = vi.fn();
    answer(403, '{"title":"Forbidden","detail":"The operator may."}');
    await failure(createApi('', onRefused).get('/api/outbox'));
    expect(onRefused).not.toHaveBeenCalled();
    answer(401, '{"title":"Unauthorized","detail":"The token is wrong."}');
    await failure(createApi('', onRefused).get('/api/outbox'));
    expect(onRefused).toHaveBeenCalledOnce();
  });
});

describe('the connection', () => {
  it('is lost without an answer, and is back with any', async () => {
    vi.stubGlobal('fetch', () => Promise.reject(new TypeError('Failed to fetch')));
    expect(await failure(createApi('').get('/health'))).toBeInstanceOf(Unreachable);
    expect(connection.lostSince()).not.toBeNull();
    answer(503, '{}');
    await failure(createApi('').get('/health'));
    expect(connection.lostSince()).toBeNull();
  });
});

it('a path has only the parameters that say something', () => {
  expect(url('/api/outbox', { limit: 100, before: null, stream: '', key: 'a b' })).toBe(
    '/api/outbox?limit=100&key=a+b',
  );
  expect(url('/api/outbox', { before: undefined })).toBe('/api/outbox');
});
