/** A client of live sync: keeps a copy of the caller's buckets, and sends changes, offline too. docs/live-sync.md is the protocol. */

export type Fields = Record<string, unknown>;

export type Bucket = { stream: string; bucket: string };

/** A document in one bucket, as it was pulled. */
export type Item = Bucket & { key: string; seq: number; checksum: number; document: Fields };

/** A write of this client, from when it was made until it was pulled. */
export interface Change {
  id: string;
  stream: string;
  key: string;
  op: "insert" | "update" | "delete";
  fields?: Fields | undefined;
  /** The seq of the item that whoever made it saw. */
  base?: number | undefined;
  /** That item's document. */
  seen?: Fields | undefined;
  /** Set when it was answered: when this snapshot is readable, so is what was written. */
  snapshot?: string | undefined;
}

/** What is kept between two starts. */
export type Stored = { cursor: number | undefined; buckets: Bucket[]; items: Item[]; changes: Change[] };

/** What is written in one transaction, in this order. */
export type Batch = { drop?: Bucket[]; remove?: Item[]; put?: Item[]; meta: Omit<Stored, "items"> };

export type Store = { load(): Promise<Stored>; save(batch: Batch): Promise<void> };

export interface Options {
  /** Where the paths of the protocol begin: `https://sync.example.com`. */
  url: string;
  /** A token of the caller; a new one where the last was refused. */
  token(isRefused: boolean): Promise<string>;
  store: Store;
  /** Documents, or the state, are other ones than before. */
  onChange?(): void;
  /** Somebody else had changed the document; `applied`: it was written all the same. */
  onConflict?(change: Change, applied: boolean): void;
  /** It will not be written. */
  onRejected?(change: Change, reason: string): void;
  /** For the log: a bucket whose checksum differs although it was fetched anew, an answer that is none of the protocol's. */
  onError?(error: Error): void;
}

type Listed = Bucket & { count: number; checksum: number };
type Page = { changes: (Item & { op: "upsert" | "delete" })[]; upto: number; more: boolean; buckets?: Listed[] };
type Result = { id: string; result: "applied" | "conflict" | "rejected" | "repeated"; applied?: boolean; reason?: string };

const PULL_EVERY_MS = 30_000;
const LONGEST_PAUSE_MS = 30_000;
const TIMEOUT_MS = 30_000;
const CHANGES_AT_ONCE = 500;

const nameOf = ({ stream, bucket }: Bucket) => JSON.stringify([stream, bucket]);
const isOf = (change: Change, { stream, key }: { stream: string; key: string }) => change.stream === stream && change.key === key;

/** Milliseconds before another try: twice as long each time, and never in step with other clients. */
const pauseAfter = (failures: number) => Math.min(1000 * 2 ** failures, LONGEST_PAUSE_MS) * (0.5 + Math.random() / 2);

class Refused extends Error {
  constructor(readonly status: number, message: string) {
    super(message);
  }
}

export class SyncClient {
  /** `live`: pokes come. `polling`: pulls work, pokes do not come. `offline`: nothing does. */
  state: "offline" | "polling" | "live" = "offline";
  /** What was changed here and is not pulled yet, the oldest first. */
  changes: Change[] = [];

  private readonly copies = new Map<string, { of: Bucket; items: Map<string, Item> }>();
  /** How often in a row a bucket was found to differ. */
  private readonly fetchedAnew = new Map<string, number>();
  private cursor: number | undefined;
  private socket: WebSocket | undefined;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private round: Promise<void> | undefined;
  private isWanted = false;
  private isStopped = false;
  private failures = 0;
  private lost = 0;

  constructor(private readonly options: Options) {}

  /** Shows what is stored, then begins to sync. */
  async start(): Promise<void> {
    const { cursor, buckets, items, changes } = await this.options.store.load();
    this.cursor = cursor;
    this.changes = changes;
    for (const bucket of buckets) this.copies.set(nameOf(bucket), { of: bucket, items: new Map() });
    for (const item of items) this.copies.get(nameOf(item))?.items.set(item.key, item);
    this.options.onChange?.();
    this.connect();
    this.sync();
  }

  stop(): void {
    this.isStopped = true;
    clearTimeout(this.timer);
    this.socket?.close();
  }

  /** The documents of a stream by their keys, with what this client has changed and not yet pulled. */
  documents(stream: string): Map<string, Fields> {
    const newest = new Map<string, Item>();
    for (const { of, items } of this.copies.values()) {
      if (of.stream !== stream) continue;
      for (const item of items.values()) if ((newest.get(item.key)?.seq ?? 0) < item.seq) newest.set(item.key, item);
    }
    const documents = new Map([...newest].map(([key, item]) => [key, item.document]));
    for (const change of this.changes) {
      if (change.stream !== stream) continue;
      if (change.op === "delete") documents.delete(change.key);
      else if (change.op === "insert" || documents.has(change.key)) documents.set(change.key, { ...documents.get(change.key), ...change.fields });
    }
    return documents;
  }

  /** Changes a document. It shows at once, and is sent as soon as that can be. */
  async change(stream: string, key: string, op: Change["op"], fields?: Fields): Promise<void> {
    const seen = this.find(stream, key);
    this.changes.push({ id: crypto.randomUUID(), stream, key, op, fields, base: seen?.seq, seen: seen?.document });
    this.options.onChange?.();
    await this.save({});
    this.sync();
  }

  /** Sends and pulls as soon as what is under way is done. */
  sync(): void {
    if (this.isStopped) return;
    clearTimeout(this.timer);
    this.isWanted = true;
    this.round ??= this.run().finally(() => (this.round = undefined));
  }

  private async run(): Promise<void> {
    let pause = 0;
    while (this.isWanted && !this.isStopped) {
      this.isWanted = false;
      try {
        await this.push();
        const arrived = await this.arrived();
        await this.pull();
        await this.forget(arrived);
        this.failures = 0;
        this.tell(this.socket?.readyState === WebSocket.OPEN ? "live" : "polling");
        pause = this.changes.length > 0 ? 1000 : PULL_EVERY_MS;
      } catch (error) {
        pause = pauseAfter(this.failures++);
        if (error instanceof Refused) this.options.onError?.(error);
        else this.tell("offline"); // no answer came
      }
    }
    if (!this.isStopped) this.timer = setTimeout(() => this.sync(), pause);
  }

  /** Sends the first change of each document: the next one is based on what comes of it. */
  private async push(): Promise<void> {
    for (let most = CHANGES_AT_ONCE; ; ) {
      const first = this.changes.filter((change, at) => this.changes.findIndex((other) => isOf(other, change)) === at);
      const batch = first.filter((change) => change.snapshot === undefined).slice(0, most);
      if (batch.length === 0) return;
      const body = JSON.stringify({ changes: batch.map(({ seen: _, snapshot: __, ...change }) => change) });
      let answer: { results: Result[]; snapshot: string };
      try {
        answer = (await (await this.ask("/sync/changes", { method: "POST", body, headers: { "Content-Type": "application/json" } })).json()) as typeof answer;
      } catch (error) {
        if (!(error instanceof Refused) || ![400, 413].includes(error.status)) throw error;
        // One of them is at fault: it stops no other.
        if (batch.length > 1) most = Math.ceil(batch.length / 2);
        else await this.reject(batch[0]!, error.message);
        continue;
      }
      for (const result of answer.results) {
        const change = batch.find(({ id }) => id === result.id);
        if (!change) continue;
        if (result.result === "rejected") {
          await this.reject(change, result.reason ?? "");
          continue;
        }
        if (result.result === "conflict") this.options.onConflict?.(change, result.applied ?? false);
        change.snapshot = answer.snapshot;
      }
      await this.save({});
      most = CHANGES_AT_ONCE;
    }
  }

  private async reject(change: Change, reason: string): Promise<void> {
    this.changes.splice(this.changes.indexOf(change), 1);
    await this.save({});
    this.options.onRejected?.(change, reason);
    this.options.onChange?.();
  }

  /** The changes that the next pull has, or something newer. */
  private async arrived(): Promise<Change[]> {
    const arrived: Change[] = [];
    for (const snapshot of new Set(this.changes.map((change) => change.snapshot))) {
      if (snapshot === undefined) continue;
      const status = (await (await this.ask(`/sync/status?snapshot=${encodeURIComponent(snapshot)}`)).json()) as { readable: boolean };
      if (status.readable) arrived.push(...this.changes.filter((change) => change.snapshot === snapshot));
    }
    return arrived;
  }

  /** They were pulled. What was changed on top of them is based on what is there now, unless somebody else changed the same. */
  private async forget(arrived: Change[]): Promise<void> {
    if (arrived.length === 0) return;
    for (const change of arrived) {
      const next = this.changes.find((other) => other !== change && isOf(other, change));
      const now = this.find(change.stream, change.key);
      if (!next || !now) continue;
      const seen: Fields = { ...change.seen, ...change.fields };
      const isSame = Object.keys(next.fields ?? now.document).every((field) => JSON.stringify(now.document[field]) === JSON.stringify(seen[field]));
      if (isSame) Object.assign(next, { base: now.seq, seen: now.document });
    }
    this.changes = this.changes.filter((change) => !arrived.includes(change));
    await this.save({});
    this.options.onChange?.();
  }

  private async pull(): Promise<void> {
    for (let isDone = false; !isDone; ) {
      const after = this.cursor === undefined ? "" : `?after=${this.cursor}`;
      let page: Page;
      try {
        page = (await (await this.ask(`/sync${after}`)).json()) as Page;
      } catch (error) {
        if (!(error instanceof Refused) || error.status !== 410 || this.cursor === undefined) throw error;
        const drop = [...this.copies.values()].map(({ of }) => of);
        this.copies.clear();
        this.cursor = undefined;
        await this.save({ drop });
        continue;
      }
      await this.apply(page);
      // What was fetched may be newer in one bucket than in another: another page brings them to one moment.
      isDone = !page.more && !(await this.reconcile(page.buckets ?? []));
    }
  }

  private async apply({ changes, upto }: Page): Promise<void> {
    const [put, remove]: [Item[], Item[]] = [[], []];
    for (const { op, ...item } of changes) {
      const items = this.copies.get(nameOf(item))?.items;
      if (!items || (items.get(item.key)?.seq ?? 0) > item.seq) continue;
      if (op === "upsert") items.set(item.key, item);
      else items.delete(item.key);
      (op === "upsert" ? put : remove).push(item);
    }
    this.cursor = upto;
    await this.save({ remove, put });
    if (changes.length > 0) this.options.onChange?.();
  }

  /** Whether anything was fetched. */
  private async reconcile(listed: Listed[]): Promise<boolean> {
    const names = new Set(listed.map(nameOf));
    const drop = [...this.copies.values()].map(({ of }) => of).filter((bucket) => !names.has(nameOf(bucket)));
    if (drop.length > 0) await this.drop(drop);
    let hasFetched = false;
    for (const bucket of listed) {
      const [name, copy] = [nameOf(bucket), this.copies.get(nameOf(bucket))];
      if (copy) {
        const checksum = [...copy.items.values()].reduce((sum, item) => (sum + item.checksum) % 2 ** 32, 0);
        const tries = copy.items.size === bucket.count && checksum === bucket.checksum ? 0 : (this.fetchedAnew.get(name) ?? 0) + 1;
        this.fetchedAnew.set(name, tries);
        if (tries === 2) this.options.onError?.(new Error(`${name} is not what it should be, although it was fetched anew`));
        if (tries !== 1) continue;
      }
      hasFetched = (await this.fetchAnew(bucket)) || hasFetched;
    }
    return hasFetched;
  }

  private async fetchAnew({ stream, bucket }: Bucket): Promise<boolean> {
    const of = { stream, bucket };
    let answer: Response;
    try {
      answer = await this.ask(`/sync/snapshot?${new URLSearchParams({ stream, bucket })}`, { signal: AbortSignal.timeout(20 * TIMEOUT_MS) });
    } catch (error) {
      if (!(error instanceof Refused) || error.status !== 403) throw error;
      await this.drop([of]); // it was ours a moment ago
      return false;
    }
    const lines = (await answer.text()).trimEnd().split("\n").map((line) => JSON.parse(line) as Partial<Item> & { items?: number });
    const [first, last] = [lines.shift(), lines.pop()];
    if (first?.seq === undefined || last?.items !== lines.length) throw new Error("the snapshot was cut off");
    const put = lines.map((line) => ({ ...(line as Item), ...of }));
    this.copies.set(nameOf(of), { of, items: new Map(put.map((item) => [item.key, item])) });
    this.cursor = Math.min(this.cursor ?? first.seq, first.seq);
    await this.save({ drop: [of], put });
    this.options.onChange?.();
    return true;
  }

  private async drop(drop: Bucket[]): Promise<void> {
    for (const bucket of drop) this.copies.delete(nameOf(bucket));
    await this.save({ drop });
    this.options.onChange?.();
  }

  private find(stream: string, key: string): Item | undefined {
    const found = [...this.copies.values()].filter(({ of }) => of.stream === stream).map(({ items }) => items.get(key));
    return found.reduce((newest, item) => ((item?.seq ?? 0) > (newest?.seq ?? 0) ? item : newest), undefined);
  }

  private async save(batch: Omit<Batch, "meta">): Promise<void> {
    const buckets = [...this.copies.values()].map(({ of }) => of);
    await this.options.store.save({ ...batch, meta: { cursor: this.cursor, buckets, changes: this.changes } });
  }

  private async ask(path: string, init: RequestInit = {}): Promise<Response> {
    for (let isRefused = false; ; isRefused = true) {
      const headers = { ...init.headers, Authorization: `Bearer ${await this.options.token(isRefused)}` };
      const answer = await fetch(this.options.url + path, { ...init, headers, signal: init.signal ?? AbortSignal.timeout(TIMEOUT_MS) });
      if (answer.ok) return answer;
      const problem = (await answer.json().catch(() => ({}))) as { detail?: string };
      if (answer.status !== 401 || isRefused) throw new Refused(answer.status, problem.detail ?? answer.statusText);
    }
  }

  private connect(isRefused = false): void {
    if (this.isStopped) return;
    const socket = (this.socket = new WebSocket(`${this.options.url.replace(/^http/, "ws")}/sync/live`));
    socket.onopen = async () => socket.send(JSON.stringify({ token: await this.options.token(isRefused) }));
    socket.onmessage = ({ data }) => {
      this.lost = 0;
      const { seq } = JSON.parse(data as string) as { seq: number };
      if (seq > (this.cursor ?? 0)) this.sync();
      else if (this.state === "polling") this.tell("live");
    };
    socket.onclose = ({ code }) => {
      if (this.state === "live") this.tell("polling");
      setTimeout(() => this.connect(code === 4401), pauseAfter(this.lost++));
    };
  }

  private tell(state: SyncClient["state"]): void {
    if (this.state === state) return;
    this.state = state;
    this.options.onChange?.();
  }
}

/** Keeps nothing. */
export class MemoryStore implements Store {
  async load(): Promise<Stored> {
    return { cursor: undefined, buckets: [], items: [], changes: [] };
  }
  async save(): Promise<void> {}
}

/** Keeps all in IndexedDB, under a name that no other client uses at the same time. */
export class IndexedDbStore implements Store {
  private readonly opened: Promise<IDBDatabase>;

  constructor(name: string) {
    const request = indexedDB.open(name, 1);
    request.onupgradeneeded = () => {
      request.result.createObjectStore("items", { keyPath: ["stream", "bucket", "key"] });
      request.result.createObjectStore("meta");
    };
    this.opened = done(request);
  }

  async load(): Promise<Stored> {
    const transaction = (await this.opened).transaction(["items", "meta"]);
    const items = done(transaction.objectStore("items").getAll() as IDBRequest<Item[]>);
    const meta = await done(transaction.objectStore("meta").get("meta") as IDBRequest<Batch["meta"] | undefined>);
    return { cursor: undefined, buckets: [], changes: [], ...meta, items: await items };
  }

  async save({ drop = [], remove = [], put = [], meta }: Batch): Promise<void> {
    const transaction = (await this.opened).transaction(["items", "meta"], "readwrite");
    const items = transaction.objectStore("items");
    for (const { stream, bucket } of drop) items.delete(IDBKeyRange.bound([stream, bucket], [stream, bucket, []]));
    for (const { stream, bucket, key } of remove) items.delete([stream, bucket, key]);
    for (const item of put) items.put(item);
    transaction.objectStore("meta").put(meta, "meta");
    await new Promise<void>((resolve, reject) => {
      transaction.oncomplete = () => resolve();
      transaction.onabort = () => reject(transaction.error ?? new Error("IndexedDB gave up"));
    });
  }
}

function done<T>(request: IDBRequest<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error ?? new Error("IndexedDB failed"));
  });
}
