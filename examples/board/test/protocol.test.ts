/** What the simulation does not show: that a client asks for no more than it needs, and what it does where the server says so. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type Options, SyncClient } from '../sync-client.js';
import { World } from './world.js';

const EMPTY = { changes: [], upto: 7, more: false, buckets: [] };

/** A client whose server answers as `answer` says, else with a page that has nothing; what it asked for, and the sockets that it opened. */
async function connected(world: World, answer: (request: string, init: RequestInit) => Response | undefined, options: Partial<Options> = {}) {
  const asked: string[] = [];
  const sockets: Socket[] = [];
  class Socket {
    readyState = 1;
    readonly sent: string[] = [];
    onopen?: () => void;
    onclose?: (event: { code: number; reason: string }) => void;
    constructor() {
      sockets.push(this);
      world.later(() => this.onopen?.());
    }
    send(text: string) {
      this.sent.push(text);
    }
    close() {}
  }
  const client = await SyncClient.open({
    url: 'http://server',
    token: async () => 'token',
    fetch: async (url, init = {}) => {
      const request = `${init.method ?? 'GET'} ${String(url).slice('http://server'.length)}`;
      asked.push(request);
      return answer(request, init) ?? Response.json(EMPTY, { headers: { ETag: 'W/"7"' } });
    },
    WebSocket: Socket as unknown as typeof WebSocket,
    ...options,
  });
  client.start();
  await until(world, () => client.state === 'live');
  return { client, asked, sockets };
}

async function until(world: World, isSo: () => boolean): Promise<void> {
  for (let steps = 0; !isSo(); steps += 1) {
    assert.ok(steps < 1000, 'it never comes');
    await world.step();
  }
}

function quiet(): World {
  const world = new World(1);
  world.isRough = false;
  return world;
}

test('a page that is the same is not sent again', async () => {
  const world = quiet();
  await world.within(async () => {
    let same = 0;
    const { asked } = await connected(world, (request, init) => {
      if (new Headers(init.headers).get('If-None-Match') !== 'W/"7"') return undefined;
      assert.equal(request, 'GET /sync?after=7');
      same += 1;
      return new Response(null, { status: 304 });
    });
    await until(world, () => same === 2);
    assert.ok(asked.length >= 4); // one to begin, one that is answered in full, and these
  });
});

test('a token that was renewed is told to the socket, once', async () => {
  const world = quiet();
  await world.within(async () => {
    let token = 'first';
    const { asked, sockets } = await connected(world, () => undefined, { token: async () => token });
    token = 'second';
    const before = asked.length;
    await until(world, () => asked.length > before + 2);
    assert.deepEqual(sockets.map(({ sent }) => sent), [['{"token":"first"}', '{"token":"second"}']]);
  });
});

test('a connection on which nothing is said for long is told the same token again', async () => {
  const world = quiet();
  await world.within(async () => {
    const { sockets } = await connected(world, () => undefined);
    await until(world, () => sockets[0]!.sent.length === 2);
    assert.deepEqual(sockets.map(({ sent }) => sent), [['{"token":"token"}', '{"token":"token"}']]);
  });
});

test('a connection that was refused is made with another token, and one that the client is to blame for not at all', async () => {
  const world = quiet();
  await world.within(async () => {
    const [errors, refused]: [string[], boolean[]] = [[], []];
    const token = async (isRefused: boolean) => `token ${refused.push(isRefused)}`;
    const { asked, sockets } = await connected(world, () => undefined, { token, onError: (error) => errors.push(error.message) });
    sockets[0]!.onclose?.({ code: 4401, reason: '' });
    await until(world, () => sockets.length === 2 && sockets[1]!.sent.length > 0);
    assert.ok(refused.includes(true));
    sockets[1]!.onclose?.({ code: 4400, reason: 'the message is not as it should be' });
    const before = asked.length;
    await until(world, () => asked.length > before + 5);
    assert.equal(sockets.length, 2);
    assert.deepEqual(errors, ['the connection was closed: 4400 the message is not as it should be']);
  });
});

test('of another database nothing is left, and no write of before is waited for', async () => {
  const world = quiet();
  await world.within(async () => {
    let isAnother = false;
    const { client, asked } = await connected(world, (request, init) => {
      if (request.startsWith('GET /sync/status')) return Response.json({ readable: false });
      if (request === 'GET /sync?after=7' && isAnother) return Response.json({ status: 410, buckets: [] }, { status: 410 });
      if (request !== 'POST /sync/changes') return undefined;
      const { changes } = JSON.parse(String(init.body)) as { changes: { id: string }[] };
      return Response.json({ results: changes.map(({ id }) => ({ id, result: 'applied' })), snapshot: '900:900:' });
    });
    await client.change('notes', 'a', 'insert', { title: 'first' });
    await until(world, () => asked.some((request) => request.includes('status')));
    assert.equal(client.documents('notes').size, 1);
    isAnother = true;
    await until(world, () => client.changes.length === 0);
    assert.equal(client.documents('notes').size, 0);
    isAnother = false; // the new cursor happens to be the same
  });
});

test('a change that cannot be read stops no other', async () => {
  const world = quiet();
  await world.within(async () => {
    const rejected: string[] = [];
    const taken: string[] = [];
    const answer = (request: string, init: RequestInit) => {
      if (request.startsWith('GET /sync/status')) return Response.json({ readable: true });
      if (request !== 'POST /sync/changes') return undefined;
      const { changes } = JSON.parse(String(init.body)) as { changes: { id: string; key: string }[] };
      if (changes.some(({ key }) => key === 'bad')) return Response.json({ status: 400, detail: 'U+0000' }, { status: 400 });
      taken.push(...changes.map(({ key }) => key));
      return Response.json({ results: changes.map(({ id }) => ({ id, result: 'applied' })), snapshot: '1:1:' });
    };
    const { client } = await connected(world, answer, { onRejected: ({ key }, reason) => rejected.push(`${key}: ${reason}`) });
    await client.stop();
    for (const key of ['a', 'b', 'bad', 'c']) await client.change('notes', key, 'insert', {});
    client.start();
    await until(world, () => client.changes.length === 0);
    assert.deepEqual(rejected, ['bad: U+0000']);
    assert.deepEqual(taken.sort(), ['a', 'b', 'c']);
  });
});

test('a change is based on what was below it, and not on what others wrote meanwhile', async () => {
  const world = quiet();
  await world.within(async () => {
    const item = (seq: number, title: string) => ({ stream: 'notes', bucket: 'one', key: 'a', seq, checksum: seq, document: { title } });
    const sent: object[] = [];
    let there = item(1, 'first');
    let readable = false;
    const { client, asked } = await connected(world, (request, init) => {
      const { stream, bucket, ...line } = there;
      const buckets = [{ stream, bucket, seq: there.seq, count: 1, checksum: there.checksum }];
      if (request.startsWith('GET /sync/snapshot')) return new Response(`{"seq":1}\n${JSON.stringify(line)}\n{"items":1}\n`);
      if (request.startsWith('GET /sync/status')) return Response.json({ readable });
      if (request.startsWith('GET /sync')) {
        const changes = request.endsWith(`after=${there.seq}`) ? [] : [{ ...there, op: 'upsert' }];
        return Response.json({ changes: request.includes('after') ? changes : [], upto: there.seq, more: false, buckets });
      }
      const { changes } = JSON.parse(String(init.body)) as { changes: { id: string; fields: object; base: number }[] };
      sent.push(...changes.map(({ fields, base }) => ({ fields, base })));
      return Response.json({ results: changes.map(({ id }) => ({ id, result: 'applied' })), snapshot: `${sent.length}:` });
    });
    await client.change('notes', 'a', 'update', { title: 'mine' });
    await until(world, () => sent.length === 1);
    there = item(3, 'theirs'); // behind mine
    await until(world, () => asked.at(-1)!.endsWith('after=3'));
    assert.deepEqual(client.documents('notes').get('a'), { title: 'mine' });
    await client.change('notes', 'a', 'update', { title: 'mine again' });
    readable = true;
    await until(world, () => sent.length === 2);
    assert.deepEqual(sent[1], { fields: { title: 'mine again' }, base: 1 });
  });
});
