import { expect, it } from 'vitest';
import { formatRoute, parseRoute } from './route';

it('a route says its page and its filters', () => {
  expect(parseRoute('#/outbox?stream=users&key=a%26b')).toEqual({
    tab: 'outbox',
    filters: { stream: 'users', key: 'a&b' },
  });
});

it('what is no page is the overview', () => {
  for (const hash of ['', '#', '#/', '#/nowhere', '#/constructor', '#main']) {
    expect(parseRoute(hash).tab).toBe('overview');
  }
});

it('a filter that says nothing is not in the address', () => {
  expect(formatRoute('dead-letters', { stream: '', error_type: undefined })).toBe('#/dead-letters');
});

it('a route is read as it was written', () => {
  const filters = { stream: 'users', key: '["7", "Leipzig"]' };
  expect(parseRoute(formatRoute('outbox', filters))).toEqual({ tab: 'outbox', filters });
});
