/** Lines that stand beside each other; null where the other side has one more. */
export interface Pair {
  left: string | null;
  right: string | null;
  isSame: boolean;
}

/** Either lines, or how many lines that are the same are left out. */
export type Part = Pair | number;

/** More lines that differ are not compared. */
export const LONGEST = 2_000;
/** Lines that are the same are shown for so far around those that are not. */
const CONTEXT = 3;

/** Brings the lines that are the same beside each other: as many as there can be. Null: there are too many lines. */
export function align(left: string[], right: string[]): Pair[] | null {
  let begin = 0;
  while (begin < left.length && begin < right.length && isSame(left[begin], right[begin])) {
    begin += 1;
  }
  let end = 0;
  while (
    end < left.length - begin &&
    end < right.length - begin &&
    isSame(left[left.length - 1 - end], right[right.length - 1 - end])
  ) {
    end += 1;
  }
  const [middleLeft, middleRight] = [left.slice(begin, left.length - end), right.slice(begin, right.length - end)];
  if (middleLeft.length > LONGEST || middleRight.length > LONGEST) {
    return null;
  }
  const same = (from: number, to: number, shift: number): Pair[] =>
    left.slice(from, to).map((line, index) => ({ left: line, right: right[from + index + shift] ?? null, isSame: true }));
  return [
    ...same(0, begin, 0),
    ...alignMiddle(middleLeft, middleRight),
    ...same(left.length - end, left.length, right.length - left.length),
  ];
}

/** Leaves out what is the same and far from what is not. */
export function folded(pairs: Pair[]): Part[] {
  const isShown = pairs.map(() => false);
  pairs.forEach((one, index) => {
    if (!one.isSame) {
      isShown.fill(true, Math.max(0, index - CONTEXT), index + CONTEXT + 1);
    }
  });
  const parts: Part[] = [];
  pairs.forEach((one, index) => {
    const last = parts.at(-1);
    if (isShown[index]) {
      parts.push(one);
    } else if (typeof last === 'number') {
      parts[parts.length - 1] = last + 1;
    } else {
      parts.push(1);
    }
  });
  return parts;
}

/** What two lines have in common at their beginnings and ends, and what each has between. */
export function within(left: string, right: string): { head: string; left: string; right: string; tail: string } {
  const shortest = Math.min(left.length, right.length);
  let head = 0;
  while (head < shortest && left[head] === right[head]) {
    head += 1;
  }
  let tail = 0;
  while (tail < shortest - head && left[left.length - 1 - tail] === right[right.length - 1 - tail]) {
    tail += 1;
  }
  // No character of two units is torn apart.
  if (head > 0 && isHigh(left.charCodeAt(head - 1))) {
    head -= 1;
  }
  if (tail > 0 && isLow(left.charCodeAt(left.length - tail))) {
    tail -= 1;
  }
  return {
    head: left.slice(0, head),
    left: left.slice(head, left.length - tail),
    right: right.slice(head, right.length - tail),
    tail: left.slice(left.length - tail),
  };
}

function alignMiddle(left: string[], right: string[]): Pair[] {
  const width = right.length + 1;
  // Of what is left of both sides from here on: how many lines can be brought beside each other.
  const common = new Uint16Array((left.length + 1) * width);
  const at = (row: number, column: number) => common[row * width + column] ?? 0;
  for (let row = left.length - 1; row >= 0; row--) {
    for (let column = right.length - 1; column >= 0; column--) {
      common[row * width + column] = isSame(left[row], right[column])
        ? at(row + 1, column + 1) + 1
        : Math.max(at(row + 1, column), at(row, column + 1));
    }
  }
  const pairs: Pair[] = [];
  let [removed, added]: [string[], string[]] = [[], []];
  const flush = () => {
    for (let index = 0; index < Math.max(removed.length, added.length); index++) {
      pairs.push({ left: removed[index] ?? null, right: added[index] ?? null, isSame: false });
    }
    [removed, added] = [[], []];
  };
  let [row, column] = [0, 0];
  while (row < left.length || column < right.length) {
    const [one, other] = [left[row], right[column]];
    if (one !== undefined && other !== undefined && isSame(one, other)) {
      flush();
      pairs.push({ left: one, right: other, isSame: true });
      row += 1;
      column += 1;
    } else if (other === undefined || (one !== undefined && at(row + 1, column) >= at(row, column + 1))) {
      removed.push(one ?? '');
      row += 1;
    } else {
      added.push(other);
      column += 1;
    }
  }
  flush();
  return pairs;
}

/** A comma at the end says that another line follows, and nothing of this one. */
function isSame(one: string | undefined, other: string | undefined): boolean {
  return one === other || (one !== undefined && other !== undefined && one.replace(/,$/, '') === other.replace(/,$/, ''));
}

function isHigh(unit: number): boolean {
  return unit >= 0xd800 && unit < 0xdc00;
}

function isLow(unit: number): boolean {
  return unit >= 0xdc00 && unit < 0xe000;
}
