/** JSON as it was written. What JavaScript makes of a number has lost its digits, and they may be all that differs. */

const TOKEN = /"[^"\\]*(?:\\.[^"\\]*)*"|[{}[\],:]|[^\s{}[\],:"]+/g;
/** Deeper levels are not indented any more. */
const DEEPEST = 60;

/** With a line for each value, and indents. */
export function pretty(json: string): string {
  let text = '';
  let depth = 0;
  let before = '';
  for (const [token] of json.matchAll(TOKEN)) {
    const closes = isClosing(token);
    if (closes) {
      depth -= 1;
    }
    // What is empty stays on its line.
    if (isOpening(before) ? !closes : closes || before === ',') {
      text += `\n${'  '.repeat(Math.min(depth, DEEPEST))}`;
    }
    text += token === ':' ? ': ' : token;
    if (isOpening(token)) {
      depth += 1;
    }
    before = token;
  }
  return text;
}

/** The values within an object by the names of its members, or within a list by their positions; each as it was written. */
export function values(json: string): Map<string, string> {
  const found = new Map<string, string>();
  let depth = 0;
  let name: string | null = null;
  let begin = 0;
  for (const { 0: token, index } of json.matchAll(TOKEN)) {
    if (depth === 1 && token === ':') {
      name = JSON.parse(json.slice(begin, index)) as string;
      begin = index + 1;
    } else if (depth === 1 && (token === ',' || isClosing(token))) {
      const value = json.slice(begin, index).trim();
      if (value !== '') {
        found.set(name ?? String(found.size), value);
      }
      begin = index + 1;
    } else if (depth === 0) {
      begin = index + 1;
    }
    depth += Number(isOpening(token)) - Number(isClosing(token));
  }
  return found;
}

function isOpening(token: string): boolean {
  return token === '{' || token === '[';
}

function isClosing(token: string): boolean {
  return token === '}' || token === ']';
}
