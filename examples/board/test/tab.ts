/** A client in a process that can be killed: its disk stays, and what it was doing does not. */

import type { Options, SyncClient } from '../sync-client.js';
import type { Batch, Bucket, Change, Item, Store, Stored } from '../sync-store.js';
import { type Asker, type Reply, STREAM, type Server } from './server.js';
import type { World } from './world.js';

export type Client = typeof SyncClient;
type Inside = { copies: Map<string, { of: Bucket; items: Map<string, Item> }>; differing: Map<string, string> };

class Disk {
  meta: Batch['meta'] = { cursor: undefined, buckets: [], changes: [] };
  items = new Map<string, Item>();

  write({ drop = [], remove = [], put = [], meta }: Batch): void {
    const name = ({ bucket, key }: Item) => JSON.stringify([bucket, key]);
    for (const item of [...this.items.values()]) if (drop.some(({ bucket }) => bucket === item.bucket)) this.items.delete(name(item));
    for (const item of remove) this.items.delete(name(item));
    for (const item of put) this.items.set(name(item), item);
    this.meta = meta;
    const kept = new Set(meta.buckets.map(({ bucket }) => bucket));
    const left = [...this.items.values()].find(({ bucket }) => !kept.has(bucket));
    if (left) throw new Error(`what is of the bucket ${left.bucket} is kept, and the bucket is not`);
  }
}

export class Socket {
  readyState = 0;
  onopen?: () => void;
  onmessage?: (event: { data: string }) => void;
  onclose?: (event: { code: number; reason: string }) => void;
  isAdmitted = false;

  constructor(private readonly tab: Tab, private readonly life: number) {
    tab.world.later(() => (tab.world.fails(0.2) ? this.end(1006) : this.open()));
  }

  private get isAlive(): boolean {
    return this.tab.life === this.life && this.readyState < 2;
  }

  private open(): void {
    if (!this.isAlive) return;
    this.readyState = 1;
    this.onopen?.();
  }

  send(text: string): void {
    const { token } = JSON.parse(text) as { token: string };
    this.tab.world.later(() => {
      if (!this.tab.isValid(token) || this.tab.world.fails(0.05)) return this.end(4401);
      this.isAdmitted = true;
      for (const bucket of this.tab.server.readers.get(this.tab.person) ?? []) this.poke(bucket, this.tab.server.copies.get(bucket)?.seq ?? 0);
    });
  }

  /** Once, or twice, or not at all; before those that were sent before it, or long behind them. */
  poke(bucket: string, seq: number): void {
    if (!this.isAdmitted || !this.tab.server.readers.get(this.tab.person)?.has(bucket)) return;
    const data = JSON.stringify({ stream: STREAM, bucket, seq });
    for (let times = this.tab.world.fails(0.2) ? 0 : this.tab.world.fails(0.2) ? 2 : 1; times > 0; times -= 1) {
      this.tab.world.later(() => this.isAlive && this.onmessage?.({ data }));
    }
  }

  end(code: number): void {
    const isAlive = this.isAlive;
    this.readyState = 3;
    if (isAlive) this.onclose?.({ code, reason: '' });
  }

  close(): void {
    this.readyState = 2;
    this.tab.world.later(() => this.tab.life === this.life && this.onclose?.({ code: 1005, reason: '' }));
  }
}

export class Tab {
  client: SyncClient | undefined;
  life = 0;
  isOnline = false;
  socket: Socket | undefined;
  /** What it has may differ from what it should be: its disk was spoilt. */
  isSpoilt = false;
  /** Of each change, by its id, as it was when it was made and each time that more was put into it; and how many of them are stored. */
  readonly made = new Map<string, { texts: string[]; stored: number; saw: Record<string, unknown> }>();
  /** Told: it was not written. */
  readonly dropped = new Set<string>();
  readonly errors: string[] = [];
  private readonly disk = new Disk();
  private token = 0;
  /** By bucket and key, the last version that was read, and whether it is there still. */
  private read = new Map<string, { v: number; isThere: boolean }>();
  private waiting: readonly Change[] = [];

  constructor(
    readonly world: World,
    readonly server: Server,
    readonly person: string,
    readonly name: string,
    private readonly Client: Client,
  ) {}

  isValid = (token: string) => token === `${this.name} ${this.token}`;

  async open(): Promise<void> {
    const life = ++this.life;
    const tab = this;
    const { world } = this;
    const isAlive = () => this.life === life;
    const never = () => new Promise<never>(() => {});
    const store: Store = {
      load: async (): Promise<Stored> => structuredClone({ ...this.disk.meta, items: [...this.disk.items.values()] }),
      // In order, and at some time; or never, where the process ends before.
      save: async (batch) => {
        const text = structuredClone(batch);
        await this.written(() => isAlive() && this.disk.write(text)).catch((error) => (world.violation = error));
        if (!isAlive()) await never();
      },
    };
    const options: Options = {
      url: 'http://server',
      token: async (isRefused) => {
        if (isRefused) this.token += 1;
        return `${this.name} ${this.token}`;
      },
      store,
      onConflict: ({ id }, isApplied) => !isApplied && this.dropped.add(id),
      onRejected: ({ id }) => this.dropped.add(id),
      onError: (error) => this.errors.push(error.message),
      fetch: async (url, init = {}) => {
        const reply = isAlive() && (await this.exchange({ person: this.person, client: this.name }, String(url), init));
        return isAlive() ? (reply as unknown as Response) : never();
      },
      WebSocket: class extends Socket {
        constructor() {
          super(tab, life);
          tab.socket = this;
        }
      } as unknown as typeof WebSocket,
    };
    this.read.clear();
    this.client = await this.Client.open(options);
    this.waiting = this.client.changes;
    this.goOnline(true);
  }

  private writes = Promise.resolve();

  private async written(write: () => void): Promise<void> {
    const before = this.writes;
    this.writes = this.world.pause().then(() => before).then(() => this.world.pause()).then(write);
    await this.writes;
  }

  private async exchange(asker: Asker, url: string, init: RequestInit): Promise<object> {
    const { world } = this;
    await world.pause();
    if (world.fails(0.05)) throw new TypeError('the request was lost');
    const headers = init.headers as Record<string, string>;
    let reply: Reply = { status: 503, text: 'busy', headers: { 'Retry-After': '5' } };
    if (!this.isValid(headers.Authorization?.slice(7) ?? '') || world.fails(0.02)) reply = { status: 401, text: '{}' };
    else if (!world.fails(0.05)) {
      const answering = this.server.answer(asker, init.method ?? 'GET', new URL(url), String(init.body));
      let next = answering.next();
      for (; !next.done; next = answering.next()) await world.pause();
      reply = next.value;
    }
    if (reply.headers?.ETag !== undefined && headers['If-None-Match'] === reply.headers.ETag) reply = { status: 304, text: '' };
    await world.pause();
    if (world.fails(0.05)) throw new TypeError('the answer was lost');
    const { status, text } = reply;
    const isCut = world.fails(url.includes('snapshot') ? 0.3 : 0.05);
    // At the end of a line, or anywhere. Where the length is told, a part of it is an error, and where it is not, it is a part.
    const at = Math.floor(world.random() * text.length);
    const cut = !isCut ? text.length : world.chance(0.5) ? at : text.lastIndexOf('\n', at) + 1;
    const isTold = world.chance(0.5);
    const read = async () => {
      if (cut < text.length && isTold) throw new TypeError('terminated');
      return text.slice(0, cut);
    };
    return { status, ok: status < 300, headers: new Headers(reply.headers ?? {}), text: read };
  }

  goOnline(isOnline: boolean): void {
    this.isOnline = isOnline;
    if (isOnline) this.client?.start();
    else void this.client?.stop();
  }

  kill(): void {
    this.life += 1;
    this.client = this.socket = undefined;
    this.writes = Promise.resolve();
  }

  has(bucket: string): boolean {
    const { copies } = this.client as unknown as Inside ?? { copies: new Map() };
    return [...this.disk.meta.buckets, ...[...copies.values()].map(({ of }) => of)].some((of) => of.bucket === bucket);
  }

  /** What a person does. */
  change(key: string, op: Change['op'], fields?: Record<string, unknown>): void {
    const { client, life } = this;
    if (!client) return;
    const saw = client.documents(STREAM).get(key) ?? {};
    const done = client.change(STREAM, key, op, fields);
    const change = client.changes.findLast((other) => other.key === key);
    if (!change) return;
    const { id } = change;
    const known = this.made.get(id) ?? { texts: [], stored: 0, saw: {} };
    for (const field of Object.keys(fields ?? {})) if (!(field in known.saw)) known.saw[field] = saw[field];
    known.texts.push(JSON.stringify([key, change.op, change.fields]));
    this.made.set(id, known);
    const made = known.texts.length;
    void done.then(() => this.life === life && (known.stored = Math.max(known.stored, made)));
    this.waiting = client.changes;
  }

  /** Spoils what is stored, of a client that does not run. */
  spoil(): void {
    const [name, item] = this.world.pick([...this.disk.items]) ?? [];
    if (!name || !item) return;
    this.isSpoilt = true;
    const kind = this.world.pick(['lost', 'more', 'other', 'newer']);
    if (kind === 'lost') this.disk.items.delete(name);
    else if (kind === 'more') this.disk.items.set(JSON.stringify([item.bucket, 'z']), { ...item, key: 'z' });
    else if (kind === 'other') this.disk.items.set(name, { ...item, checksum: (item.checksum + 1) % 2 ** 32 });
    else this.disk.items.set(name, { ...item, seq: 2 ** 50, checksum: (item.checksum + 1) % 2 ** 32 });
  }

  /** Nobody overwrites what they have not seen, unless they saw what they had written themselves, and it was refused. */
  requireSeen(id: string, field: string, value: unknown): void {
    const { saw } = this.made.get(id)!;
    const isRefused = [...this.dropped].some((other) => this.made.get(other)!.texts.some((text) => text.includes(JSON.stringify(saw[field]) ?? '-')));
    if (saw[field] !== value && !isRefused) throw new Error(`${this.name}: ${id} overwrites ${value} where ${saw[field]} was seen`);
  }

  /** After each step: throws where something is read that must not be. */
  look(): void {
    const { client } = this;
    if (!client) return;
    const { copies, differing } = client as unknown as Inside;
    if (!this.isSpoilt && this.server.broken === undefined && differing.size > 0) {
      throw new Error(`${this.name}: what it has is not what it should be`);
    }
    for (const [name, { of, items }] of copies) {
      for (const [key, { document }] of items) {
        const [at, v] = [`${name} ${key}`, Number(document.v)];
        const last = this.read.get(at);
        if (last && (last.isThere ? v < last.v : v <= last.v)) throw new Error(`${this.name}: ${of.bucket} ${key} goes back from ${last.v} to ${v}`);
        this.read.set(at, { v, isThere: true });
      }
    }
    for (const [at, last] of this.read) {
      const copy = copies.get(at.slice(0, at.lastIndexOf(' ')));
      if (!copy) this.read.delete(at); // it was dropped, and what comes is a beginning
      else if (!copy.items.has(at.slice(at.lastIndexOf(' ') + 1))) last.isThere = false;
    }
    for (const change of this.waiting) if (!client.changes.includes(change)) this.requireArrived(change, copies);
    this.waiting = client.changes;
  }

  /** A write that is not on top any more is below: it was pulled, or something newer. */
  private requireArrived({ id, key }: Change, copies: Inside['copies']): void {
    const v = this.server.written.get(id);
    if (v === undefined) return;
    const versions = this.server.history.get(key)!;
    const { bucket } = versions[v - 1]!;
    const copy = bucket === undefined ? undefined : [...copies.values()].find(({ of }) => of.bucket === bucket);
    if (bucket === undefined) {
      const left = [...copies.values()].map(({ items }) => items.get(key)).find((item) => item && Number(item.document.v) < v);
      if (left) throw new Error(`${this.name}: the delete ${id} of ${key} is forgotten before it was pulled`);
    } else if (copy && !this.isSpoilt) {
      const item = copy.items.get(key);
      const hasLeft = versions.slice(v).some((other) => other.bucket !== bucket);
      if (item ? Number(item.document.v) < v : !hasLeft) throw new Error(`${this.name}: the change ${id} of ${key} is forgotten before it was pulled`);
    }
  }

  /** In the end. */
  requireEqual(): void {
    const readable = this.server.readers.get(this.person)!;
    const wanted = [...this.server.rows].filter(([, { bucket }]) => readable.has(bucket)).map(([key]) => [key, this.server.documentOf(key)]);
    const sorted = (entries: Iterable<unknown[]>) => JSON.stringify([...entries].sort(([a], [b]) => (String(a) < String(b) ? -1 : 1)));
    const [found, expected] = [sorted(this.client!.documents(STREAM)), sorted(wanted)];
    if (found !== expected) throw new Error(`${this.name} has ${found}, and the source ${expected}`);
    if (this.client!.changes.length > 0) throw new Error(`${this.name}: changes are left`);
    for (const [id, { texts, stored }] of this.made) {
      const received = this.server.received.get(id);
      if (received === undefined) {
        if (stored > 0 && !texts.some((text) => text.includes('"insert"'))) throw new Error(`${this.name}: the change ${id} was never sent`);
        continue;
      }
      const { key, op, fields } = JSON.parse(received) as Change;
      if (!texts.slice(Math.max(stored - 1, 0)).includes(JSON.stringify([key, op, fields]))) throw new Error(`${this.name}: ${id} was sent as ${received}, and was ${texts.at(-1)}`);
      if (!this.server.written.has(id) && !this.dropped.has(id) && op !== 'delete') throw new Error(`${this.name}: nobody was told of the change ${id}`);
    }
  }
}
