import { pretty, values } from './json';

/** A document of one side, with a line for each of its values. Without one and without a problem, the side has none. */
export interface Side {
  text: string | null;
  problem: string | null;
}

export interface Both {
  source: Side;
  target: Side;
  /** Of the target's document. */
  version: string | null;
  /** When they were read. */
  at: string;
}

const GONE = 'It is not among the differences any more.';

/** Of the answer that has one difference: what both sides have, as it was written. */
export function read(answer: string): Omit<Both, 'at'> {
  const [first] = values(values(answer).get('differences') ?? '[]').values();
  if (first === undefined) {
    const gone = { text: null, problem: GONE };
    return { source: gone, target: gone, version: null };
  }
  const parts = values(first);
  const present = (name: string) => {
    const text = parts.get(name);
    return text === undefined || text === 'null' ? null : text;
  };
  const side = (name: string): Side => {
    const [text, problem] = [present(name), present(`${name}_problem`)];
    return { text: text && pretty(text), problem: problem && (JSON.parse(problem) as string) };
  };
  return { source: side('source'), target: side('target'), version: present('target_version') };
}
