import { describe, expect, it } from 'vitest';
import type { Letter } from '../api/types';
import { content, errorTypes, matching, nameOf, ordered, without } from './letters';

function letter(changes: Partial<Letter>): Letter {
  return {
    message_id: 'a',
    target: 'elasticsearch',
    stream: 'users',
    key: '7',
    version: 1,
    change_id: 12,
    op: 'upsert',
    error_type: 'strict_dynamic_mapping_exception',
    reason: 'introduction of [nickname] is not allowed',
    first_seen: null,
    failed_at: '2026-03-01T12:00:00Z',
    attempts: 1,
    document: { name: 'Ada Lovelace' },
    document_bytes: 23,
    body: null,
    ...changes,
  };
}

const unreadable = letter({ message_id: 'b2c4-0000', stream: null, key: null, document: null, body: '{"half": ' });

const ids = (letters: Letter[]) => letters.map(({ message_id }) => message_id);

it('the newest letter is first, in whatever order the queue gave them', () => {
  const letters = [
    letter({ message_id: 'old', failed_at: '2026-03-01T11:00:00Z' }),
    letter({ message_id: 'y' }),
    letter({ message_id: 'unknown', failed_at: null }),
    letter({ message_id: 'x' }),
  ];
  expect(ids(ordered(letters))).toEqual(['x', 'y', 'old', 'unknown']);
  expect(ids(ordered(letters.toReversed()))).toEqual(['x', 'y', 'old', 'unknown']);
});

describe('a search', () => {
  const letters = [letter({ message_id: 'a' }), unreadable];

  it('finds each word, in the document, the reason or the body', () => {
    expect(ids(matching(letters, 'LOVELACE nickname'))).toEqual(['a']);
    expect(ids(matching(letters, 'half'))).toEqual(['b2c4-0000']);
    expect(matching(letters, 'lovelace half')).toEqual([]);
  });

  it('for nothing finds all', () => {
    expect(matching(letters, '  ')).toBe(letters);
  });
});

it('a letter that is gone is not counted any more', () => {
  const list = { letters: [letter({ message_id: 'a' }), letter({ message_id: 'b' })], depth: 40, is_sample: true };
  expect(without(list, ['b', 'never loaded'])).toEqual({ letters: [list.letters[0]], depth: 39, is_sample: true });
});

it('a letter of a direct target is found by its target, and told apart from the same document of another one', () => {
  const letters = [letter({}), letter({ message_id: 'clickhouse-7', target: 'clickhouse', op: null, attempts: null })];
  expect(letters.map(nameOf)).toEqual(['users 7', 'users 7 for ClickHouse']);
  expect(nameOf(letter({ target: 'a later one' }))).toBe('users 7 for a later one');
  expect(ids(matching(letters, 'clickhouse lovelace'))).toEqual(['clickhouse-7']);
});

it('error types are named once', () => {
  expect(errorTypes([letter({ error_type: 'b' }), letter({ error_type: 'a' }), letter({ error_type: 'b' })])).toEqual([
    'a',
    'b',
  ]);
});

it('a letter that could not be parsed has the name and the content of its message', () => {
  expect(nameOf(unreadable)).toBe('message b2c4-000');
  expect(content(unreadable)).toBe('{"half": ');
  expect(nameOf(letter({}))).toBe('users 7');
  expect(content(letter({}))).toBe('{\n  "name": "Ada Lovelace"\n}');
  expect(content(letter({ document: null }))).toBeNull();
});
