import type { Checkpoint } from '../api/types';

export type Reached = Checkpoint & { at: string };

/** Of those that are made each minute so many of the last ones are offered, and then one an hour. */
const LATEST = 5;

/** The checkpoints of a subscription from which something can be replayed, the newest first, few enough to choose from. */
export function offered(checkpoints: Checkpoint[], subscription: string): Reached[] {
  const usable = checkpoints.filter(
    (one): one is Reached => one.subscription === subscription && one.at !== null && one.problem === null,
  );
  const hours = new Set<string>();
  let unnamed = 0;
  return usable.filter(({ name, at }) => {
    if (name !== null) {
      return true;
    }
    unnamed += 1;
    const hour = at.slice(0, 13);
    if (unnamed <= LATEST) {
      return true;
    }
    const isFirst = !hours.has(hour);
    hours.add(hour);
    return isFirst;
  });
}
