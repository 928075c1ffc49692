import { expect, test } from 'vitest';
import { baseOf, done } from './progress';

test('a generation is told to be of its stream', () => {
  expect(['books', 'books.g2', 'book-g2', 'books.g17'].map(baseOf)).toEqual(['books', 'books', 'book-g2', 'books']);
});

test('what is left is told by the pace so far', () => {
  const begun = '2030-01-01T00:00:00Z';
  const now = Date.parse(begun) + 600_000;
  expect(done(250, 1000, begun, now)).toEqual({ share: 0.25, left: 'about 30 minutes left' });
  expect(done(1000, 1000, begun, now)).toEqual({ share: 1, left: 'about a minute left' });
  expect(done(0, 1000, begun, now)).toEqual({ share: 0 });
  expect(done(10, null, begun, now)).toEqual({ share: null });
});
