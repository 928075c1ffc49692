import { describe, expect, it } from 'vitest';
import { type Api, Problem } from './client';
import { readHealth, readPages } from './live';

type Page = { rows: number[]; next_before: number | null };

function apiOf(answers: Record<string, Page>): Api & { asked: string[] } {
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
    expect(await readPages(api(), '/log?stream=users', rowsOf, 2)).toEqual({ rows: [9, 8], before: 5, pages: 2 });
    expect(await readPages(api(), '/log?stream=users', rowsOf, 3)).toEqual({ rows: [9, 8, 2], before: null, pages: 3 });
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
