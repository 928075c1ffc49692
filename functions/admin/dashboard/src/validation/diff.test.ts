import { describe, expect, it } from 'vitest';
import { align, folded, LONGEST, type Pair, within } from './diff';

/** `=` the same, `<` only left, `>` only right, `|` both and not the same. */
function drawn(pairs: Pair[] | null): string[] {
  return (pairs ?? []).map(({ left, right, isSame }) => {
    const sign = isSame ? '=' : left === null ? '>' : right === null ? '<' : '|';
    return `${sign}${[...new Set([left, right])].filter((line) => line !== null).join('/')}`;
  });
}

const aligned = (left: string, right: string) => drawn(align([...left], [...right]));

describe('align', () => {
  it('finds what was added, removed and changed', () => {
    expect(aligned('abc', 'abc')).toEqual(['=a', '=b', '=c']);
    expect(aligned('abc', 'axc')).toEqual(['=a', '|b/x', '=c']);
    expect(aligned('ac', 'abc')).toEqual(['=a', '>b', '=c']);
    expect(aligned('abc', 'ac')).toEqual(['=a', '<b', '=c']);
    expect(aligned('abcd', 'axyd')).toEqual(['=a', '|b/x', '|c/y', '=d']);
    expect(aligned('abcd', 'axd')).toEqual(['=a', '|b/x', '<c', '=d']);
    expect(aligned('', 'ab')).toEqual(['>a', '>b']);
    expect(aligned('ab', '')).toEqual(['<a', '<b']);
    expect(aligned('', '')).toEqual([]);
  });

  it('keeps as much as can be kept', () => {
    const kept = (left: string, right: string) => aligned(left, right).filter((line) => line.startsWith('=')).length;
    expect(kept('abcbdab', 'bdcaba')).toBe(4);
    expect(kept('xaxbxc', 'aybzc')).toBe(3);
    expect(kept('aaaa', 'aa')).toBe(2);
  });

  it('has each line of both sides once, in its order', () => {
    for (let seed = 1; seed < 200; seed++) {
      const text = (salt: number) =>
        Array.from({ length: (seed * salt) % 12 }, (_, at) => 'abc'[(seed * (at + 3) * salt + at * at) % 3] ?? '');
      const [left, right] = [text(7), text(11)];
      const pairs = align(left, right) ?? [];
      expect(pairs.flatMap((one) => one.left ?? [])).toEqual(left);
      expect(pairs.flatMap((one) => one.right ?? [])).toEqual(right);
      expect(pairs.every((one) => !one.isSame || one.left === one.right)).toBe(true);
    }
  });

  it('takes no comma for a difference that only says that a line follows', () => {
    expect(drawn(align(['{', '  "a": 1', '}'], ['{', '  "a": 1,', '  "b": 2', '}']))).toEqual([
      '={',
      '=  "a": 1/  "a": 1,',
      '>  "b": 2',
      '=}',
    ]);
  });

  it('gives up where too much differs, and not where the documents are long', () => {
    const lines = (count: number, what: string) => Array.from({ length: count }, (_, line) => `${what} ${line}`);
    expect(align(lines(LONGEST + 1, 'a'), ['x'])).toBeNull();
    expect(align(lines(LONGEST, 'a'), lines(LONGEST, 'b'))).toHaveLength(LONGEST);
    const long = lines(20_000, 'a');
    const pairs = align(long, long.with(10_000, 'changed')) ?? [];
    expect(pairs.filter(({ isSame }) => !isSame)).toEqual([{ left: 'a 10000', right: 'changed', isSame: false }]);
  });
});

describe('folded', () => {
  it('shows what differs and a little around it', () => {
    const pairs = align([...'abcdefghijklmnop'], [...'abcdefgHijklmnop']) ?? [];
    const parts = folded(pairs).map((part) => (typeof part === 'number' ? part : drawn([part])[0]));
    expect(parts).toEqual([4, '=e', '=f', '=g', '|h/H', '=i', '=j', '=k', 5]);
  });

  it('is a number where all is the same, and nothing where there is nothing', () => {
    expect(folded(align([...'abc'], [...'abc']) ?? [])).toEqual([3]);
    expect(folded([])).toEqual([]);
  });
});

describe('within', () => {
  it('parts a line into what is the same and what is not', () => {
    expect(within('"n": 1.10,', '"n": 1.25,')).toEqual({ head: '"n": 1.', left: '10', right: '25', tail: ',' });
    expect(within('aa', 'aaa')).toEqual({ head: 'aa', left: '', right: 'a', tail: '' });
    expect(within('', 'b')).toEqual({ head: '', left: '', right: 'b', tail: '' });
  });

  it('tears no character apart', () => {
    expect(within('a😀b', 'a😁b')).toEqual({ head: 'a', left: '😀', right: '😁', tail: 'b' });
    // The same low half, another high one.
    expect(within('\u{1f600}', '\u{1fa00}')).toEqual({ head: '', left: '\u{1f600}', right: '\u{1fa00}', tail: '' });
  });
});
