import { expect, it } from 'vitest';
import { fieldsOf } from './fields';

const told = (sent: string | null, there: string | null) =>
  fieldsOf(sent, there).map(({ name, state }) => `${name} ${state}`);

it('what differs comes first, then what is the same, then what was not sent', () => {
  expect(fieldsOf('{"title": "A", "year": 1961}', '{"id": 42, "title": "B", "year": 1961}')).toEqual([
    { name: 'title', sent: '"A"', there: '"B"', state: 'differs' },
    { name: 'year', sent: '1961', there: '1961', state: 'same' },
    { name: 'id', sent: null, there: '42', state: 'not sent' },
  ]);
});

it('a field that the document has not differs, and so does each where there was none', () => {
  expect(told('{"a": null}', '{}')).toEqual(['a differs']);
  expect(told('{"a": 1, "b": 2}', null)).toEqual(['a differs', 'b differs']);
  expect(told(null, '{"a": 1}')).toEqual(['a not sent']);
  expect(told(null, null)).toEqual([]);
});

it('each digit counts, also those that JavaScript loses', () => {
  expect(told('{"n": 9007199254740993}', '{"n": 9007199254740992}')).toEqual(['n differs']);
  expect(told('{"n": 9007199254740993}', '{"n": 9007199254740993}')).toEqual(['n same']);
});

it('what is written otherwise and means the same is the same', () => {
  expect(told(String.raw`{"a": {"x": [1, {"y": "\u00fc"}], "z": ""}}`, '{"a":{"z":"","x":[1,{"y":"ü"}]}}')).toEqual(['a same']);
  expect(told('{"a": [1, 2]}', '{"a": [2, 1]}')).toEqual(['a differs']);
  expect(told('{"a": "1"}', '{"a": 1}')).toEqual(['a differs']);
  expect(told('{"a": ["x", "y"]}', '{"a": {"0": "x", "1": "y"}}')).toEqual(['a differs']);
});
