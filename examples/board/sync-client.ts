/**
 * A client of live sync, as docs/live-sync.md describes it: it keeps a copy of what the caller may read, and sends what is changed here,
 * made offline or not. It needs `fetch` and, to hear of changes at once, `WebSocket`: a browser, or Node.
 */

import { type Answer, NoAnswer, Refused, ask, parse } from './sync-http.js';
import { type Batch, type Bucket, type Change, type Fields, type Item, MemoryStore, type Store, type Stored } from './sync-store.js';

export interface Options {
  /** Where the paths of the protocol begin: `https://sync.example.com`. */
  url: string;
  /** Where the WebSocket is, if that is elsewhere: `wss://…`. */
  liveUrl?: string;
  /** A token of the caller; another one than before, if that was refused. */
  token(isRefused: boolean): Promise<string>;
  /** Without it, all is in memory. */
  store?: Store;
  /** Documents, changes or the state are other ones than before. */
  onChange?(): void;
  /** Somebody else had changed the document, too. `isApplied`: it was written all the same; else `reason` may say why not. */
  onConflict?(change: Change, isApplied: boolean, reason?: string): void;
  /** It will not be written, and is dropped. */
  onRejected?(change: Change, reason: string): void;
  /** For the log: what the server refused, what could not be stored, a bucket that differs although it was fetched anew. */
  onError?(error: Error): void;
  fetch?: typeof fetch;
  WebSocket?: typeof WebSocket;
}

type Listed = Bucket & { count: number; checksum: number };
type Page = { changes: (Item & { op: 'upsert' | 'delete' })[]; upto: number; more: boolean; buckets?: Listed[] };
type Result = { id: string; result: 'applied' | 'conflict' | 'rejected' | 'repeated'; applied?: boolean; reason?: string };

const PULL_EVERY_MS = 30_000;
const LOOK_EVERY_MS = 1_000; // for what was written here
const HELLO_EVERY_MS = 540_000; // a gateway ends a connection on which nothing is said for ten minutes
const LONGEST_PAUSE_MS = 30_000;
const TIMEOUT_MS = 30_000;
const SNAPSHOT_TIMEOUT_MS = 600_000;
const CHANGES_AT_ONCE = 500;
const FAULTS_OF_THE_CLIENT = [1009, 4400]; // to connect again would not help

const nameOf = ({ stream, bucket }: Bucket) => JSON.stringify([stream, bucket]);
const documentOf = ({ stream, key }: { stream: string; key: string }) => JSON.stringify([stream, key]);

/** Whether they are as many as the server says, and their checksums sum up to its own. */
function isLike(items: Map<string, Item>, { count, checksum }: Listed): boolean {
  return items.size === count && [...items.values()].reduce((sum, item) => (sum + item.checksum) % 2 ** 32, 0) === checksum;
}

/** Milliseconds until another try: twice as long each time, and never in step with other clients. */
const pauseAfter = (failures: number) => Math.min(1000 * 2 ** failures, LONGEST_PAUSE_MS) * (0.5 + Math.random() / 2);

export class SyncClient {
  /** `live`: what others change comes at once. `polling`: within half a minute. `offline`: not now. */
  state: 'offline' | 'polling' | 'live' = 'offline';
  /** What was changed here and is not pulled yet, the oldest first. */
  changes: readonly Change[];

  private readonly copies = new Map<string, { of: Bucket; items: Map<string, Item> }>();
  /** Buckets that are not what the server says, and what was done about it: no more than that. */
  private readonly differing = new Map<string, 'fetched' | 'told'>();
  private cursor: number | undefined;
  /** The last page of a pull, which is not sent again while it is the same. */
  private known: { path: string; etag: string | null } | undefined;
  private round: Promise<void> | undefined;
  private isWanted = false;
  private isStopped = true;
  private failures = 0;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private socket: WebSocket | undefined;
  private socketToken: string | undefined;
  private helloAt = 0;
  private disconnects = 0;
  private reconnect: ReturnType<typeof setTimeout> | undefined;

  private constructor(private readonly options: Options, private readonly store: Store, stored: Stored) {
    this.cursor = stored.cursor;
    this.changes = stored.changes;
    for (const of of stored.buckets) this.copies.set(nameOf(of), { of, items: new Map() });
    for (const item of stored.items) this.copies.get(nameOf(item))?.items.set(item.key, item);
  }

  /** With what the store has. It is offline until it is started. */
  static async open(options: Options): Promise<SyncClient> {
    const store = options.store ?? new MemoryStore();
    return new SyncClient(options, store, await store.load());
  }

  /** Goes online; or, if it is, tries again at once what has failed. */
  start(): void {
    this.isStopped = false;
    this.failures = this.disconnects = 0;
    if (!this.socket) this.connect(false);
    this.sync();
  }

  /** Goes offline, when what is under way is done. */
  async stop(): Promise<void> {
    this.isStopped = true;
    clearTimeout(this.timer);
    clearTimeout(this.reconnect);
    this.socket?.close();
    this.socket = undefined;
    this.tell('offline');
    await this.round;
  }

  /** The buckets of a stream that may be read. */
  buckets(stream: string): string[] {
    return [...this.copies.values()].flatMap(({ of }) => (of.stream === stream ? of.bucket : [])).sort();
  }

  /** The documents of a stream by their keys, with what was changed here on top. */
  documents(stream: string): Map<string, Fields> {
    const newest = new Map<string, Item>();
    for (const { of, items } of this.copies.values()) {
      if (of.stream !== stream) continue;
      for (const item of items.values()) if ((newest.get(item.key)?.seq ?? 0) < item.seq) newest.set(item.key, item);
    }
    const documents = new Map([...newest].map(([key, item]) => [key, item.document]));
    for (const { key, op, fields } of this.changes.filter((change) => change.stream === stream)) {
      if (op === 'delete') documents.delete(key);
      else if (op === 'insert' || documents.has(key)) documents.set(key, { ...documents.get(key), ...fields });
    }
    return documents;
  }

  /** Changes a document: it shows at once, is stored when this returns, and is sent as soon as that can be. */
  async change(stream: string, key: string, op: Change['op'], fields?: Fields): Promise<void> {
    const last = this.changes.findLast((other) => other.stream === stream && other.key === key);
    const isOpen = last && !last.isSent && last.op !== 'delete';
    if (isOpen && op === 'update') {
      last.fields = { ...last.fields, ...fields };
    } else if (isOpen && op === 'delete' && last.op === 'insert') {
      this.remove(last);
    } else {
      // What is seen is what lies on top, and not an item that was pulled below it.
      const basis = last ?? { base: this.find(stream, key)?.seq };
      const [base, seen] = op === 'insert' ? [] : [basis.base, this.documents(stream).get(key)];
      this.changes = [...this.changes, { id: crypto.randomUUID(), stream, key, op, fields, base, seen }];
    }
    this.options.onChange?.();
    await this.save();
    this.sync();
  }

  /** Sends and pulls; if that is under way, once more. What has failed is not tried again before its pause is over. */
  sync(): void {
    this.isWanted = true;
    if (!this.isStopped && this.failures === 0) this.begin();
  }

  private begin(): void {
    clearTimeout(this.timer);
    this.round ??= this.run();
  }

  private async run(): Promise<void> {
    let pause = 0;
    do {
      this.isWanted = false;
      try {
        await this.push();
        const arrived = await this.listArrived();
        await this.pull();
        await this.forget(arrived);
        await this.renewSocket();
        this.failures = 0;
        pause = this.changes.length > 0 ? LOOK_EVERY_MS : PULL_EVERY_MS;
        if (!this.isStopped) this.tell(this.socketToken === undefined ? 'polling' : 'live');
      } catch (error) {
        pause = Math.max(pauseAfter(this.failures++), error instanceof Refused ? error.retryAfterMs : 0);
        this.tell('offline');
        if (!(error instanceof NoAnswer)) this.options.onError?.(error as Error);
      }
    } while (this.isWanted && !this.isStopped && this.failures === 0);
    this.round = undefined;
    if (!this.isStopped) this.timer = setTimeout(() => this.begin(), pause);
  }

  /** Sends the first change of each document. Those behind it are based on what becomes of it, and wait until it is pulled. */
  private async push(): Promise<void> {
    for (let most = CHANGES_AT_ONCE; ; ) {
      const firsts = new Map(this.changes.toReversed().map((change) => [documentOf(change), change]));
      const batch = this.changes.filter((change) => firsts.get(documentOf(change)) === change && !change.snapshot).slice(0, most);
      if (batch.length === 0) return;
      for (const change of batch) change.isSent = true;
      await this.save();
      const changes = batch.map(({ id, stream, key, op, fields, base }) => ({ id, stream, key, op, fields, base }));
      const headers = { 'Content-Type': 'application/json' };
      try {
        const { text } = await this.ask('/sync/changes', { method: 'POST', headers, body: JSON.stringify({ changes }) });
        await this.take(batch, parse(text));
        most = CHANGES_AT_ONCE;
      } catch (error) {
        if (!(error instanceof Refused && [400, 413].includes(error.status))) throw error;
        // One of them is at fault, and is to stop no other: it is found by halves.
        if (batch.length > 1) most = Math.ceil(batch.length / 2);
        else await this.take(batch, { results: [{ id: batch[0]!.id, result: 'rejected', reason: error.message }], snapshot: '' });
      }
    }
  }

  /** What became of changes. One that is not written is dropped, one that is written stays until it is pulled. */
  private async take(batch: Change[], { results, snapshot }: { results: Result[]; snapshot: string }): Promise<void> {
    const became = new Map(results.map((result) => [result.id, result]));
    if (!batch.every(({ id }) => became.has(id))) throw new NoAnswer('the answer does not tell of each change');
    for (const change of batch) {
      const { result, applied = result === 'applied', reason } = became.get(change.id)!;
      if (applied) change.snapshot = snapshot;
      else this.remove(change);
      // Before it is stored: told twice is better than not at all.
      if (result === 'rejected') this.options.onRejected?.(change, reason ?? '');
      else if (result === 'conflict' || !applied) this.options.onConflict?.(change, applied, reason);
    }
    await this.save();
    this.options.onChange?.();
  }

  /** The changes that are in the next pull. */
  private async listArrived(): Promise<Change[]> {
    const arrived: Change[] = [];
    for (const snapshot of new Set(this.changes.flatMap((change) => change.snapshot ?? []))) {
      const { text } = await this.ask(`/sync/status?${new URLSearchParams({ snapshot })}`);
      if (!parse<{ readable: boolean }>(text).readable) break; // and what came after it is not, either
      arrived.push(...this.changes.filter((change) => change.snapshot === snapshot));
    }
    return arrived;
  }

  private async forget(arrived: Change[]): Promise<void> {
    if (arrived.length === 0) return;
    for (const change of arrived) this.remove(change);
    await this.save();
    this.options.onChange?.();
  }

  /** What was changed on top of it is based on what is there now, unless somebody else has changed the same. */
  private remove(done: Change): void {
    this.changes = this.changes.filter((change) => change !== done);
    const next = this.changes.find((change) => documentOf(change) === documentOf(done));
    if (!next || next.op === 'insert') return;
    const now = this.find(done.stream, done.key);
    const isSame = (field: string) => JSON.stringify(now?.document[field]) === JSON.stringify(next.seen?.[field]);
    if (now && Object.keys(next.fields ?? done.fields ?? {}).every(isSame)) next.base = now.seq;
    else next.base ??= 0; // it saw nothing of what is there
  }

  private async pull(): Promise<void> {
    for (let isDone = false; !isDone; ) {
      const path = this.cursor === undefined ? '/sync' : `/sync?after=${this.cursor}`;
      let answer: Answer;
      try {
        answer = await this.ask(path, this.known?.path === path && this.known.etag ? { headers: { 'If-None-Match': this.known.etag } } : {});
      } catch (error) {
        if (!(error instanceof Refused && error.status === 410)) throw error;
        await this.beginAnew(error.problem.buckets?.length === 0);
        continue;
      }
      if (answer.status === 304) return;
      const page = parse<Page>(answer.text);
      await this.apply(page);
      // What was fetched is of another moment than the page, so another page follows.
      isDone = !page.more && !(await this.fetchMissing(page.buckets ?? []));
      this.known = isDone ? { path, etag: answer.etag } : undefined;
    }
  }

  /** Of another database nobody can say whether a write of before is readable. */
  private async beginAnew(isAnotherDatabase: boolean): Promise<void> {
    const drop = [...this.copies.values()].map(({ of }) => of);
    this.copies.clear();
    this.differing.clear();
    this.cursor = undefined;
    if (isAnotherDatabase) this.changes = this.changes.filter((change) => !change.snapshot);
    await this.save({ drop });
    this.options.onChange?.();
  }

  /** With it go buckets that may not be read any more: the cursor has passed what changed in them. */
  private async apply({ changes, upto, buckets }: Page): Promise<void> {
    const [put, remove]: [Item[], Item[]] = [[], []];
    for (const { op, ...item } of changes) {
      const items = this.copies.get(nameOf(item))?.items;
      // No delete is remembered: there is one request at a time, so that nothing older comes behind it.
      if (!items || (items.get(item.key)?.seq ?? 0) > item.seq) continue;
      if (op === 'upsert') items.set(item.key, item);
      else items.delete(item.key);
      (op === 'upsert' ? put : remove).push(item);
    }
    const listed = buckets && new Set(buckets.map(nameOf));
    const drop = [...this.copies.values()].map(({ of }) => of).filter((of) => listed && !listed.has(nameOf(of)));
    for (const of of drop) this.copies.delete(nameOf(of));
    this.cursor = upto;
    await this.save({ remove, put, drop });
    if (changes.length + drop.length > 0) this.options.onChange?.();
  }

  /** Fetches the listed buckets that it has not, or that differ. Whether there was one. */
  private async fetchMissing(listed: Listed[]): Promise<boolean> {
    let hasFetched = false;
    for (const bucket of listed) {
      const [name, copy] = [nameOf(bucket), this.copies.get(nameOf(bucket))];
      const was = this.differing.get(name);
      if (copy && isLike(copy.items, bucket)) {
        this.differing.delete(name);
      } else if (!copy || was === undefined) {
        hasFetched = (await this.fetchWhole(bucket)) || hasFetched;
        if (copy) this.differing.set(name, 'fetched');
      } else if (was === 'fetched') {
        this.options.onError?.(new Error(`${name} is not what it should be, although it was fetched anew`));
        this.differing.set(name, 'told');
      }
    }
    return hasFetched;
  }

  private async fetchWhole({ stream, bucket }: Bucket): Promise<boolean> {
    const of = { stream, bucket };
    let answer: Answer;
    try {
      answer = await this.ask(`/sync/snapshot?${new URLSearchParams(of)}`, {}, SNAPSHOT_TIMEOUT_MS);
    } catch (error) {
      if (!(error instanceof Refused && error.status === 403)) throw error;
      return false; // it was ours a moment ago: the next page does not list it
    }
    const lines = answer.text.trimEnd().split('\n').map((line) => parse<Partial<Item> & { items?: number }>(line));
    const [first, last] = [lines.shift(), lines.pop()];
    if (first?.seq === undefined || last?.items !== lines.length) throw new NoAnswer('the snapshot was cut off');
    const put = lines.map((line) => ({ ...(line as Item), ...of }));
    this.copies.set(nameOf(of), { of, items: new Map(put.map((item) => [item.key, item])) });
    this.cursor = Math.min(this.cursor ?? first.seq, first.seq);
    await this.save({ drop: [of], put });
    this.options.onChange?.();
    return true;
  }

  private find(stream: string, key: string): Item | undefined {
    const found = [...this.copies.values()].flatMap(({ of, items }) => (of.stream === stream && items.get(key)) || []);
    return found.sort((a, b) => b.seq - a.seq)[0];
  }

  private async save(batch: Omit<Batch, 'meta'> = {}): Promise<void> {
    const meta = { cursor: this.cursor, buckets: [...this.copies.values()].map(({ of }) => of), changes: this.changes };
    await this.store.save({ ...batch, meta });
  }

  private async ask(path: string, init: RequestInit = {}, timeoutMs = TIMEOUT_MS): Promise<Answer> {
    const { url, fetch = globalThis.fetch } = this.options;
    for (let isRefused = false; ; isRefused = true) {
      const headers = { ...init.headers, Authorization: `Bearer ${await this.options.token(isRefused)}` };
      try {
        return await ask(fetch, url + path, { ...init, headers }, timeoutMs);
      } catch (error) {
        if (isRefused || !(error instanceof Refused && error.status === 401)) throw error;
      }
    }
  }

  /** Pokes say when to pull, and nothing depends on them. */
  private connect(isRefused: boolean): void {
    const { url, liveUrl = `${url.replace(/^http/, 'ws')}/sync/live`, WebSocket = globalThis.WebSocket } = this.options;
    if (!WebSocket) return;
    const socket = (this.socket = new WebSocket(liveUrl));
    socket.onopen = async () => {
      await this.renewSocket(isRefused).catch(() => socket.close());
      this.sync();
    };
    socket.onmessage = ({ data }) => {
      this.disconnects = 0;
      if (parse<{ seq: number }>(String(data)).seq > (this.cursor ?? 0)) this.sync();
    };
    socket.onclose = ({ code, reason }) => {
      if (socket !== this.socket) return;
      this.socket = this.socketToken = undefined;
      if (this.state === 'live') this.tell('polling');
      if (FAULTS_OF_THE_CLIENT.includes(code)) return this.options.onError?.(new Error(`the connection was closed: ${code} ${reason}`));
      this.reconnect = setTimeout(() => this.connect(code === 4401), pauseAfter(2 + this.disconnects++));
    };
  }

  /** The server closes a connection whose token has ended, unless it is told another one before. Told the same again, it goes on. */
  private async renewSocket(isRefused = false): Promise<void> {
    const socket = this.socket;
    if (socket?.readyState !== 1) return;
    const token = await this.options.token(isRefused);
    const isTold = token === this.socketToken && Date.now() < this.helloAt + HELLO_EVERY_MS;
    if (isTold || socket !== this.socket || socket.readyState !== 1) return;
    socket.send(JSON.stringify({ token }));
    [this.socketToken, this.helloAt] = [token, Date.now()];
  }

  private tell(state: SyncClient['state']): void {
    if (this.state === state) return;
    this.state = state;
    this.options.onChange?.();
  }
}
