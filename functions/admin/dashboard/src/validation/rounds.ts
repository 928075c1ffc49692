import type { DifferenceClass, Validation } from '../api/types';
import { count } from '../format';
import { placeAt } from '../targets';

type Tone = 'good' | 'bad' | 'warn' | 'wait' | 'plain';

export const CLASSES = {
  missing: 'The source has the document, and the target does not.',
  stale: 'The target has the document with other contents than the source.',
  extra: 'The target has a document that the source does not have, or no longer.',
  dead_lettered: 'Its change could not be written, and is among the dead letters.',
  unreadable: 'The source fails when this document is read.',
  version_ahead: 'The version in the target is higher than any that Sluice has given.',
  untracked: "The source's document has changed, and the log has no row of it. One such document is shown of each stream.",
} as const;

export const STATES = {
  candidate: 'It was seen once, and is looked at again.',
  confirmed: 'It was seen twice, and nothing was under way that would change it.',
  repairing: 'It is in the log again, and is compared once it has arrived.',
  repaired: 'Both sides are equal.',
  stuck: 'It was repaired, and differs still.',
} as const;

const REPAIRABLE = ['missing', 'stale', 'extra', 'version_ahead'];
/** Of these nobody need do anything about the target. */
const EXPLAINED = ['dead_lettered', 'waiting'];
/** A request takes 64 kB. */
const PORTION = 40_000;

/** A name as it is read: `dead_lettered` has an underscore for those who type it. */
export function words(name: string): string {
  return name.replaceAll('_', ' ');
}

export function isRepairable({ class: name, state }: { class: string; state: string }): boolean {
  return REPAIRABLE.includes(name) && (state === 'confirmed' || state === 'stuck');
}

/** How many documents a repair of all would take. */
export function repairable(classes: DifferenceClass[]): number {
  return classes.filter(isRepairable).reduce((sum, { count: number }) => sum + number, 0);
}

export function toneOf({ class: name, state }: { class: string; state: string }): Tone {
  if (state === 'repaired') {
    return 'good';
  }
  if (EXPLAINED.includes(name)) {
    return 'warn';
  }
  return state === 'confirmed' || state === 'stuck' ? 'bad' : 'wait';
}

export function summary({ class: name, state, count: number }: DifferenceClass): string {
  // That changes wait says all there is to say.
  return name === 'waiting' ? `${count(number)} waiting` : `${count(number)} ${words(name)}, ${state}`;
}

/** How far a round is. */
export function phaseOf({ state, subscription }: Pick<Validation, 'state' | 'subscription'>): { tone: Tone; words: string } {
  switch (state) {
    case 'asked':
      return { tone: 'wait', words: 'Asked for' };
    case 'source':
      return { tone: 'wait', words: 'Comparing the source' };
    case 'index':
      return { tone: 'wait', words: `Searching the ${placeAt(subscription)}` };
    case 'confirming':
      return { tone: 'wait', words: 'Looking again' };
    case 'done':
      return { tone: 'good', words: 'Done' };
    default:
      return { tone: 'plain', words: 'Never compared' };
  }
}

export function verdictOf(verdict: string): { tone: Tone; words: string } {
  switch (verdict) {
    case 'equal':
      return { tone: 'good', words: 'Equal' };
    case 'different':
      return { tone: 'bad', words: 'Different' };
    default:
      return { tone: 'plain', words: 'Not compared' };
  }
}

/** The keys in portions, each of which fits into a request. */
export function portions(keys: string[]): string[][] {
  const all: string[][] = [];
  let room = 0;
  for (const key of keys) {
    const size = new TextEncoder().encode(JSON.stringify(key)).length + 1;
    if (size > room) {
      all.push([]);
      room = PORTION;
    }
    all.at(-1)?.push(key);
    room -= size;
  }
  return all;
}
