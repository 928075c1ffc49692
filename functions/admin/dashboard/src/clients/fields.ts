import { pretty, values } from '../validation/json';

/** A field of both sides, each as it was written; null: that side has none. */
export interface Field {
  name: string;
  sent: string | null;
  there: string | null;
  state: 'differs' | 'same' | 'not sent';
}

/** What a client sent, field by field, beside the document that there was: first what differs, then what is the same, then the fields that
 *  were not sent. Each in the order in which they were written. */
export function fieldsOf(fields: string | null, document: string | null): Field[] {
  const sent = values(fields ?? '{}');
  const there = values(document ?? '{}');
  const names = new Set([...sent.keys(), ...there.keys()]);
  const rows = [...names].map((name): Field => {
    const [one, other] = [sent.get(name) ?? null, there.get(name) ?? null];
    const state = one === null ? 'not sent' : other !== null && canonical(one) === canonical(other) ? 'same' : 'differs';
    return { name, sent: one && pretty(one), there: other && pretty(other), state };
  });
  return (['differs', 'same', 'not sent'] as const).flatMap((state) => rows.filter((row) => row.state === state));
}

/** One text for all that mean the same: whatever is between the values, the order of members, and how a character is written. Digits are as
 *  they were written. */
function canonical(json: string): string {
  if (json.startsWith('"')) {
    return JSON.stringify(JSON.parse(json));
  }
  if (!json.startsWith('{') && !json.startsWith('[')) {
    return json;
  }
  const members = [...values(json)].map(([name, value]) => `${JSON.stringify(name)}:${canonical(value)}`);
  return json.startsWith('{') ? `{${members.sort()}}` : `[${members}]`;
}
