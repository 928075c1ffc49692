/** What two people changed at once: both sides, and a way to have the other one. */

import { element, find } from './page.js';
import type { Fields } from './sync-store.js';

/** As the server lists it: `fields` is what was sent, `document` what was there. */
export type Conflict = { number: number; key: string; applied: boolean; fields: Fields | null; document: Fields | null };

const SHOWN = ['title', 'body', 'lane'];
const WORDS: Record<string, string> = { body: 'text', todo: 'To do', doing: 'Doing', done: 'Done' };

export function drawConflicts(conflicts: Conflict[], notes: { id: string }[], use: (key: string, fields: Fields) => void): void {
  const section = find('#conflicts');
  section.hidden = conflicts.length === 0;
  const list = section.querySelector('ol')!;
  const wanted = conflicts.map(({ number }) => number).join();
  if (list.dataset.shown !== wanted) list.replaceChildren(...conflicts.toReversed().map((conflict) => drawConflict(conflict, use)));
  list.dataset.shown = wanted;
  for (const item of list.querySelectorAll('li')) {
    item.querySelector('button')!.disabled = !notes.some(({ id }) => id === item.dataset.key);
  }
}

const say = (name: string, value: unknown) => (name === 'lane' ? WORDS[String(value)] : String(value ?? '')) || '–';

function drawConflict({ key, applied, fields, document }: Conflict, use: (key: string, fields: Fields) => void): HTMLElement {
  // What was sent has the fields that were to change: the same ones of what was there are what it is about.
  const names = SHOWN.filter((name) => fields === null || name in fields);
  const side = (from: Fields | null, label: string, isWritten: boolean) =>
    element('div', { className: isWritten ? 'side written' : 'side' },
      element('h3', {}, label, isWritten ? element('span', { className: 'badge', textContent: 'written' }) : ''),
      ...(from ? names.map((name) => element('p', {}, element('span', { textContent: WORDS[name] ?? name }), say(name, from[name]))) : [element('p', { textContent: 'deleted' })]));
  const other = applied ? document : fields;
  const button = element('button', { type: 'button', textContent: applied ? 'Use what was there' : 'Use what was sent' });
  button.onclick = () => other && use(key, Object.fromEntries(names.map((name) => [name, other[name]])));
  button.hidden = !other;
  const by = (from: Fields | null) => (from?.edited_by ? `, by ${from.edited_by}` : '');
  const item = element('li', {}, side(fields, `Sent${by(fields)}`, applied), side(document, `Was there${by(document)}`, !applied), button);
  item.dataset.key = key;
  return item;
}
