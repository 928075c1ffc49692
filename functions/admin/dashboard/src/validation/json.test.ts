import { describe, expect, it } from 'vitest';
import { pretty, values } from './json';

describe('pretty', () => {
  it('indents as JSON.stringify does', () => {
    for (const value of [
      { a: 1, b: [1, 2, { c: null }], d: {}, e: [], f: 'x' },
      [],
      {},
      'a {text}, [with] "all": of it \\ ',
      true,
      [[[]]],
      [{ a: [{}] }],
      { 'a:b': ',', '"': '\\"' },
    ]) {
      expect(pretty(JSON.stringify(value))).toBe(JSON.stringify(value, null, 2));
    }
  });

  it('keeps the digits, the order, and members of one name', () => {
    expect(pretty('{"b" :9007199254740993,"a":1.10, "a":1E400}')).toBe(
      '{\n  "b": 9007199254740993,\n  "a": 1.10,\n  "a": 1E400\n}',
    );
  });

  it('is no larger than it need be for what is nested deeply', () => {
    expect(pretty('['.repeat(10_000) + ']'.repeat(10_000)).length).toBeLessThan(3_000_000);
  });

  it('takes a long text', () => {
    const text = JSON.stringify('\\"'.repeat(500_000));
    expect(pretty(text)).toBe(text);
  });
});

describe('values', () => {
  it('are those of an object by their names, as they were written', () => {
    const found = values(' {"a": 1.10, "b": {"c": [1, 2], "a": 7}, "\\u0064\\"" : "x, y: {}", "e": [] } ');
    expect([...found]).toEqual([
      ['a', '1.10'],
      ['b', '{"c": [1, 2], "a": 7}'],
      ['d"', '"x, y: {}"'],
      ['e', '[]'],
    ]);
  });

  it('are those of a list by their positions', () => {
    expect([...values('[1.0, [2, 3], {"a": 4}]')]).toEqual([
      ['0', '1.0'],
      ['1', '[2, 3]'],
      ['2', '{"a": 4}'],
    ]);
    expect([...values('[]')]).toEqual([]);
    expect([...values('{}')]).toEqual([]);
  });
});
