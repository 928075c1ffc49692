import type { Letter, Letters } from '../api/types';
import { json } from '../format';
import { titleOf } from '../targets';

/** Of all targets together. The queue gives its letters in any order: without one of our own, rows would change places at
 *  each refresh. */
export function ordered(letters: Letter[]): Letter[] {
  return [...letters].sort(
    (a, b) => (b.failed_at ?? '').localeCompare(a.failed_at ?? '') || a.message_id.localeCompare(b.message_id),
  );
}

export function without(list: Letters, ids: string[]): Letters {
  const letters = list.letters.filter(({ message_id }) => !ids.includes(message_id));
  return { ...list, letters, depth: list.depth - (list.letters.length - letters.length) };
}

/** The letters that have each word of the text somewhere in what they say. */
export function matching(letters: Letter[], text: string): Letter[] {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  if (words.length === 0) {
    return letters;
  }
  return letters.filter((letter) => {
    const said = textOf(letter);
    return words.every((word) => said.includes(word));
  });
}

export function errorTypes(letters: Letter[]): string[] {
  return [...new Set(letters.map(({ error_type }) => error_type))].sort();
}

/** The same document may be a letter of several targets. */
export function nameOf({ stream, key, message_id, target }: Letter): string {
  const name = stream === null ? `message ${message_id.slice(0, 8)}` : `${stream} ${key ?? ''}`.trim();
  return target === 'elasticsearch' ? name : `${name} for ${titleOf(target)}`;
}

/** The document with its indents, or what came if that could not be read. */
export function content({ document, body }: Letter): string | null {
  if (body !== null) {
    return body;
  }
  return document === null ? null : json(document);
}

function textOf(letter: Letter): string {
  const { target, stream, key, message_id, error_type, reason, op, change_id, document, body } = letter;
  return [
    target,
    stream,
    key,
    message_id,
    error_type,
    reason,
    op,
    change_id,
    body,
    document === null ? '' : JSON.stringify(document),
  ]
    .join(' ')
    .toLowerCase();
}
