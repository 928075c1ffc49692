import { describe, expect, it } from 'vitest';
import { type Api, Problem } from './client';
import { readHealth, readPages } from './live';

type Page = { rows: number[]; next_before: number | null };
type Ordered = { rows: string[]; next_after: string | null };

function apiOf(answers: Record<string, Page | Ordered>): Api & { asked: string[] } {
  const asked: string[] = [];
  return {
    asked,
    get: async <T>(path: string) => {
      asked.push(path);
      return answers[path] as T;
    },
    text: () => Promise.reject(new Error('No text is read.')),
    send: () => Promise.reject(new Error('Nothing is sent.')),
  };
}

const rowsOf = (page: Page) => page.rows;

describe('pages', () => {
  const api = () =>
    apiOf({
      '/log?stream=users': { rows: [9, 8], next_before: 8 },
      '/log?stream=users&before=8': { rows: [], next_before: 5 },
      '/log?stream=users&before=5': { rows: [2], next_before: null },
    });

  it('are read one after another, with the filters, also past one without rows', async () => {
    expect(await readPages(api(), '/log?stream=users', rowsOf, 2)).toEqual({ rows: [9, 8], next: 5, pages: 2 });
    expect(await readPages(api(), '/log?stream=users', rowsOf, 3)).toEqual({ rows: [9, 8, 2], next: null, pages: 3 });
  });

  it('go on behind a key where the list is one of keys', async () => {
    const buckets = apiOf({
      '/buckets': { rows: ['a&b'], next_after: '["books","a&b"]' },
      '/buckets?after=%5B%22books%22%2C%22a%26b%22%5D': { rows: ['c'], next_after: null },
    });
    const rows = (page: Ordered) => page.rows;
    expect(await readPages(buckets, '/buckets', rows, 1)).toEqual({ rows: ['a&b'], next: '["books","a&b"]', pages: 1 });
    expect(await readPages(buckets, '/buckets', rows, 3)).toEqual({ rows: ['a&b', 'c'], next: null, pages: 3 });
  });

  it('are not asked for past the last', async () => {
    const log = api();
    await readPages(log, '/log?stream=users', rowsOf, 7);
    expect(log.asked).toHaveLength(3);
  });
});

describe('health', () => {
  const failing = (problem: Problem): Api => ({ ...apiOf({}), get: () => Promise.reject(problem) });

  it('is read from the answer of a degraded service', async () => {
    const body = { status: 'degraded', parts: [] };
    expect(await readHealth(failing(new Problem(503, 'Error 503', '', body)), '/health')).toBe(body);
  });

  it('is unknown when the answer says nothing about it', async () => {
    const problem = new Problem(503, 'Service Unavailable', 'The function is being deployed.', { detail: '' });
    await expect(readHealth(failing(problem), '/health')).rejects.toBe(problem);
  });
});
