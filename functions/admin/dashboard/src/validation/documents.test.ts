import { expect, it } from 'vitest';
import { read } from './documents';

const answer = (difference: string) => `{"stream": {"classes": [], "stream": "a"}, "differences": [${difference}], "is_sample": false}`;

it('both documents are read with all their digits', () => {
  const { source, target, version } = read(
    answer(
      '{"key":"1","source":{"n":9007199254740993,"m":1.10},"source_problem":null,"target":{"n": 9007199254740992},"target_problem":null,"target_version":9007199254740995}',
    ),
  );
  expect(source).toEqual({ text: '{\n  "n": 9007199254740993,\n  "m": 1.10\n}', problem: null });
  expect(target).toEqual({ text: '{\n  "n": 9007199254740992\n}', problem: null });
  expect(version).toBe('9007199254740995');
});

it('a side without a document has none, or says why it is not known', () => {
  const { source, target, version } = read(
    answer('{"key":"1","source":null,"source_problem":"it \\"fails\\"","target":null,"target_problem":null,"target_version":null}'),
  );
  expect(source).toEqual({ text: null, problem: 'it "fails"' });
  expect(target).toEqual({ text: null, problem: null });
  expect(version).toBeNull();
});

it('what differs no longer says so', () => {
  expect(read(answer('')).source.problem).toContain('not among the differences');
});
