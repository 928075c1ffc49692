/** A model of the server: the source, the log behind it, what clients pull, and their writes. docs/live-sync.md is what it answers. */

import type { Change, Fields } from '../sync-store.js';
import type { World } from './world.js';

export const STREAM = 'notes';

type Row = { bucket: string; fields: Fields };
type Item = { seq: number; checksum: number; document: Fields | undefined };
type Sent = Pick<Change, 'id' | 'key' | 'op' | 'fields' | 'base'>;
/** What a row was, from this version on; `by`: the client that wrote it. */
type Version = { v: number; bucket: string | undefined; by: string };

export type Reply = { status: number; text: string; headers?: Record<string, string> };
/** Whoever asks: a person, by one of their clients. */
export type Asker = { person: string; client: string };
/** An answer that is not of one moment yields between them. */
type Answering = Generator<void, Reply>;

const json = (body: unknown, status = 200): Reply => ({ status, text: JSON.stringify(body) });
const hash = (text: string) => [...text].reduce((sum, character) => (Math.imul(sum, 31) + character.charCodeAt(0)) >>> 0, 7);

class Copy {
  seq = 0;
  floor = 0;
  readonly items = new Map<string, Item>();

  live(): [string, Item][] {
    return [...this.items].filter(([, item]) => item.document).sort(([a], [b]) => (a < b ? -1 : 1));
  }

  checksum(): number {
    return this.live().reduce((sum, [, item]) => (sum + item.checksum) % 2 ** 32, 0);
  }
}

export class Server {
  readonly rows = new Map<string, Row>();
  readonly history = new Map<string, Version[]>();
  readonly readers = new Map<string, Set<string>>();
  readonly copies = new Map<string, Copy>();
  /** By its id, what of a change was received; it never changes. */
  readonly received = new Map<string, string>();
  /** By its id, the version that a change has written. */
  readonly written = new Map<string, number>();
  /** How often each bucket was fetched, and the other pages that were not empty or were whole. */
  snapshots = 0;
  /** This bucket's sum is told wrongly. */
  broken: string | undefined;
  onChange: (bucket: string, seq: number) => void = () => {};
  /** A change replaces this value, and there is no conflict. */
  onOverwrite: (asker: Asker, id: string, field: string, value: unknown) => void = () => {};
  private head = 0;
  private committed = 0;
  private log: { key: string; at: number }[] = [];
  /** By key and seq, the version of an item. */
  private readonly versions = new Map<string, number>();
  private readonly answered = new Map<string, boolean>();

  constructor(private readonly world: World, private readonly isLastToWin: boolean) {}

  /** A transaction. `undefined`: the row is deleted. Its version is the document's field `v`. */
  commit(key: string, row: Row | undefined, by: string): number {
    const versions = this.history.get(key) ?? [];
    const v = versions.length + 1;
    this.history.set(key, [...versions, { v, bucket: row?.bucket, by }]);
    if (row) this.rows.set(key, row);
    else this.rows.delete(key);
    this.log.push({ key, at: ++this.committed });
    return v;
  }

  documentOf(key: string): Fields | undefined {
    const row = this.rows.get(key);
    return row && { id: key, bucket: row.bucket, ...row.fields, v: this.history.get(key)!.length };
  }

  get isDrained(): boolean {
    return this.log.length === 0;
  }

  /** Brings what the first row of the log is about to clients' buckets, as it is now. */
  drain(): void {
    const first = this.log.shift();
    if (!first) return;
    const document = this.documentOf(first.key);
    const wanted = this.rows.get(first.key)?.bucket;
    if (wanted && !this.copies.has(wanted)) this.copies.set(wanted, new Copy());
    for (const [bucket, copy] of this.copies) {
      const [before, after] = [copy.items.get(first.key), bucket === wanted ? document : undefined];
      if (JSON.stringify(before?.document) === JSON.stringify(after)) continue;
      const seq = ++this.head;
      copy.items.set(first.key, { seq, checksum: hash(first.key + JSON.stringify(after)), document: after });
      copy.seq = seq;
      if (document) this.versions.set(`${first.key} ${seq}`, Number(document.v));
      this.onChange(bucket, seq);
    }
  }

  /** The deletes of a bucket are forgotten, as after 30 days. */
  forgetDeletes(copy: Copy): void {
    for (const [key, { seq, document }] of copy.items) {
      if (document) continue;
      copy.items.delete(key);
      copy.floor = Math.max(copy.floor, seq);
    }
  }

  *answer(asker: Asker, method: string, url: URL, body: string): Answering {
    try {
      return yield* this.reply(asker, method, url, body);
    } catch (error) {
      this.world.violation = error as Error;
      throw error;
    }
  }

  private *reply(asker: Asker, method: string, url: URL, body: string): Answering {
    switch (`${method} ${url.pathname}`) {
      case 'GET /sync':
        return this.page(asker, url.searchParams);
      case 'GET /sync/snapshot':
        return yield* this.snapshot(asker, url.searchParams.get('bucket')!);
      case 'GET /sync/status': {
        const at = Number(url.searchParams.get('snapshot'));
        return json({ readable: !this.log.some((entry) => entry.at <= at) });
      }
      case 'POST /sync/changes':
        return yield* this.changes(asker, (JSON.parse(body) as { changes: Sent[] }).changes);
      default:
        return json({ detail: 'there is nothing of this name' }, 404);
    }
  }

  private listed({ person }: Asker): [string, Copy][] {
    const names = [...(this.readers.get(person) ?? [])];
    return names.map((name) => [name, this.copies.get(name) ?? new Copy()]);
  }

  private page(asker: Asker, parameters: URLSearchParams): Reply {
    const given = parameters.get('after');
    const after = Number(given);
    const listed = this.listed(asker);
    const lost = given === null ? [] : listed.filter(([, copy]) => after < copy.floor);
    if (lost.length > 0) return json({ detail: 'gone', buckets: lost.map(([bucket]) => ({ stream: STREAM, bucket })) }, 410);
    const changed = listed
      .flatMap(([bucket, copy]) => [...copy.items].map(([key, item]) => ({ bucket, key, item })))
      .filter(({ item }) => given !== null && item.seq > after)
      .sort((a, b) => a.item.seq - b.item.seq);
    const page = changed.slice(0, 1 + Math.floor(this.world.random() * 4));
    const more = page.length < changed.length;
    const changes = page.map(({ bucket, key, item: { seq, checksum, document } }) => {
      const of = { stream: STREAM, bucket, key, seq };
      return document ? { ...of, op: 'upsert', checksum, document } : { ...of, op: 'delete' };
    });
    const buckets = listed.map(([bucket, copy]) => {
      const checksum = copy.checksum() + (bucket === this.broken ? 7 : 0);
      return { stream: STREAM, bucket, seq: copy.seq, count: copy.live().length, checksum };
    });
    const text = JSON.stringify({ changes, upto: more ? page.at(-1)!.item.seq : this.head, more, ...(more ? {} : { buckets }) });
    return { status: 200, text, headers: { ETag: `W/"${hash(text)}"` } };
  }

  private *snapshot(asker: Asker, bucket: string): Answering {
    this.snapshots += 1;
    const lines: object[] = [];
    for (let after = ''; ; ) {
      if (!this.readers.get(asker.person)?.has(bucket)) {
        if (lines.length > 0) return { status: 200, text: lines.map((line) => JSON.stringify(line)).join('\n') }; // broken off
        return json({ detail: 'the token does not give this bucket' }, 403);
      }
      if (lines.length === 0) lines.push({ seq: this.head });
      const rest = (this.copies.get(bucket)?.live() ?? []).filter(([key]) => key > after).slice(0, 3);
      if (rest.length === 0) break;
      lines.push(...rest.map(([key, item]) => ({ key, ...item })));
      after = rest.at(-1)![0];
      yield;
    }
    lines.push({ items: lines.length - 1 });
    return { status: 200, text: lines.map((line) => `${JSON.stringify(line)}\n`).join('') };
  }

  private *changes(asker: Asker, changes: Sent[]): Answering {
    const results: object[] = [];
    let isDone = true;
    for (const change of changes) {
      if (this.world.fails(0.05)) isDone = false;
      else results.push({ id: change.id, ...this.accept(asker, change) });
      if (this.world.fails(0.3)) yield;
    }
    return isDone ? json({ results, snapshot: String(this.committed) }) : json({ detail: 'send the same again' }, 503);
  }

  private accept(asker: Asker, change: Sent): { result: string; applied?: boolean; reason?: string } {
    const content = JSON.stringify(change);
    if ((this.received.get(change.id) ?? content) !== content) throw new Error(`a change is sent again as another one: ${content}`);
    this.received.set(change.id, content);
    const { id, key, op, base } = change;
    const known = this.answered.get(`${asker.person} ${id}`);
    if (known !== undefined) return { result: 'repeated', applied: known };
    if ((op === 'insert') === (base !== undefined)) throw new Error(`a base that should not be, or should: ${content}`);
    const there = this.rows.get(key);
    const readable = this.readers.get(asker.person) ?? new Set();
    const within = there ? [there.bucket] : [...this.copies].filter(([, copy]) => copy.items.has(key)).map(([name]) => name);
    const isReadable = within.some((name) => readable.has(name));
    if (op !== 'insert' && !isReadable) return { result: 'rejected', reason: 'there is no such document that you may read' };
    const had = [...this.copies].filter(([name]) => readable.has(name)).map(([, copy]) => copy.items.get(key));
    const item = had.find((other) => other?.seq === base);
    const isNothing = op === 'delete' && !there;
    const isCurrent =
      isNothing || (op === 'insert' ? !there || !isReadable : JSON.stringify(item?.document) === JSON.stringify(this.documentOf(key)) && Boolean(there));
    const based = this.versions.get(`${key} ${base}`);
    if (!isCurrent && based !== undefined) this.requireOther(asker, key, based);
    if (isCurrent && op === 'update') for (const field of Object.keys(change.fields!)) this.onOverwrite(asker, id, field, there!.fields[field]);
    let applied = isNothing;
    if (!applied && (isCurrent || this.isLastToWin)) applied = this.write(asker, change, there, readable);
    if (isCurrent && !applied) return { result: 'rejected', reason: 'you may not do that' };
    this.answered.set(`${asker.person} ${id}`, applied);
    return isCurrent ? { result: 'applied' } : { result: 'conflict', applied };
  }

  /** Fails where a client conflicts with itself. */
  private requireOther({ client }: Asker, key: string, v: number): void {
    const since = this.history.get(key)!.filter((version) => version.v > v);
    if (since.length > 0 && since.every(({ by }) => by === client)) throw new Error(`${client} conflicts with itself over ${key}`);
  }

  /** As a user's function does, with row-level security: whether it could be done. */
  private write({ client }: Asker, { id, key, op, fields }: Sent, there: Row | undefined, readable: Set<string>): boolean {
    const { bucket, id: _, ...others } = { bucket: there?.bucket, ...fields } as Fields & { bucket: string };
    if (op === 'insert' ? there || !readable.has(bucket) : !there) return false;
    const row = op === 'delete' ? undefined : { bucket: there?.bucket ?? bucket, fields: { ...there?.fields, ...others } };
    if (this.written.has(id)) throw new Error(`the change ${id} is applied twice`);
    this.written.set(id, this.commit(key, row, client));
    return true;
  }
}
