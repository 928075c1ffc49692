/** What a client of live sync keeps: what it has pulled, and what is still to be sent. */

export type Fields = Record<string, unknown>;

export type Bucket = { stream: string; bucket: string };

/** A document in one bucket, as it was pulled. */
export type Item = Bucket & { key: string; seq: number; checksum: number; document: Fields };

/** A write of this client, from when it is made until it is pulled. */
export interface Change {
  id: string;
  stream: string;
  key: string;
  op: 'insert' | 'update' | 'delete';
  fields?: Fields | undefined;
  /** The seq of the item below what whoever made it saw. */
  base?: number | undefined;
  /** The document that they saw. */
  seen?: Fields | undefined;
  /** It may have reached the server: from then on it stays as it is. */
  isSent?: boolean | undefined;
  /** It is written, and can be pulled once this snapshot is readable. */
  snapshot?: string | undefined;
}

/** What is kept between two starts. */
export type Stored = { cursor: number | undefined; buckets: Bucket[]; items: Item[]; changes: readonly Change[] };

/** What is written in one transaction: first what goes, then what comes. */
export type Batch = { drop?: Bucket[]; remove?: Item[]; put?: Item[]; meta: Omit<Stored, 'items'> };

/** Batches are written in the order in which they are given. */
export type Store = { load(): Promise<Stored>; save(batch: Batch): Promise<void> };

/** Keeps nothing when the client has ended. */
export class MemoryStore implements Store {
  async load(): Promise<Stored> {
    return { cursor: undefined, buckets: [], items: [], changes: [] };
  }

  async save(): Promise<void> {}
}

/** Keeps all in IndexedDB, under a name that no other client uses at the same time: see `navigator.locks`. */
export class IndexedDbStore implements Store {
  private readonly opened: Promise<IDBDatabase>;

  constructor(readonly name: string) {
    const request = indexedDB.open(name, 1);
    request.onupgradeneeded = () => {
      request.result.createObjectStore('items', { keyPath: ['stream', 'bucket', 'key'] });
      request.result.createObjectStore('meta');
    };
    this.opened = done(request);
  }

  async load(): Promise<Stored> {
    const transaction = (await this.opened).transaction(['items', 'meta']);
    const [items, meta] = await Promise.all([
      done<Item[]>(transaction.objectStore('items').getAll()),
      done<Batch['meta'] | undefined>(transaction.objectStore('meta').get('meta')),
    ]);
    return { cursor: undefined, buckets: [], changes: [], ...meta, items };
  }

  async save({ drop = [], remove = [], put = [], meta }: Batch): Promise<void> {
    const transaction = (await this.opened).transaction(['items', 'meta'], 'readwrite');
    const items = transaction.objectStore('items');
    for (const { stream, bucket } of drop) items.delete(IDBKeyRange.bound([stream, bucket], [stream, bucket, []]));
    for (const { stream, bucket, key } of remove) items.delete([stream, bucket, key]);
    for (const item of put) items.put(item);
    transaction.objectStore('meta').put(meta, 'meta');
    await new Promise<void>((resolve, reject) => {
      transaction.oncomplete = () => resolve();
      transaction.onabort = () => reject(transaction.error ?? new Error('IndexedDB did not store it'));
    });
  }

  /** Removes all of it. */
  async delete(): Promise<void> {
    (await this.opened).close();
    await done(indexedDB.deleteDatabase(this.name));
  }
}

function done<T>(request: IDBRequest<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error ?? new Error('IndexedDB failed'));
  });
}
