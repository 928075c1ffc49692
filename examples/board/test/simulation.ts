/** Three clients of two people, one of whom has two, beside others who write to the source. */

import { STREAM, Server } from './server.js';
import { type Client, Tab } from './tab.js';
import { World } from './world.js';

const BUCKETS = ['one', 'two', 'three'];
const STEPS = 400;
/** Far more than it takes until nothing is under way. */
const QUIET_STEPS = 5_000;
/** In which each client pulls several times without need. */
const IDLE_MS = 65_000;

/** Throws where something is not as it must be; the seed repeats it. */
export async function simulate(seed: number, Client: Client): Promise<void> {
  const world = new World(seed);
  await world.within(() => live(world, Client));
}

async function live(world: World, Client: Client): Promise<void> {
  const server = new Server(world, world.chance(0.7));
  const isSpoilt = world.chance(0.2);
  if (world.chance(0.1)) server.broken = 'one';
  const people = { ann: new Set(['one', 'two']), ben: new Set(['one', 'three']) };
  for (const [person, buckets] of Object.entries(people)) server.readers.set(person, buckets);
  const tabs = [
    new Tab(world, server, 'ann', 'desk', Client),
    new Tab(world, server, 'ann', 'phone', Client),
    new Tab(world, server, 'ben', 'ben', Client),
  ];
  server.onOverwrite = ({ client }, id, field, value) => tabs.find(({ name }) => name === client)!.requireSeen(id, field, value);
  server.onChange = (bucket, seq) => tabs.forEach(({ socket }) => socket?.poke(bucket, seq));
  for (const key of ['a', 'b', 'c', 'd']) server.commit(key, { bucket: world.pick(BUCKETS)!, fields: { title: 'first' } }, 'others');
  while (!server.isDrained) server.drain();
  for (const tab of tabs) await tab.open();

  for (let step = 0; step < STEPS; step += 1) {
    if (world.chance(0.2)) await disturb(world, server, tabs, isSpoilt, step);
    await world.step();
    for (const tab of tabs) tab.look();
  }

  world.isRough = false;
  for (const tab of tabs) {
    if (!tab.client) await tab.open();
    tab.goOnline(true);
  }
  const isQuiet = () => server.isDrained && tabs.every(({ client }) => client!.changes.length === 0 && client!.state === 'live');
  let steps = 0;
  const go = async () => {
    if ((steps += 1) > QUIET_STEPS) throw new Error('it does not become quiet');
    server.drain();
    await world.step();
    for (const tab of tabs) tab.look();
  };
  while (!isQuiet()) await go();
  for (const until = world.now + IDLE_MS; world.now < until; ) await go();
  const { snapshots } = server;
  for (const until = world.now + IDLE_MS; world.now < until; ) await go();
  for (const tab of tabs) {
    tab.requireEqual();
    const told = tab.errors.filter((error) => error.includes('fetched anew')).length;
    if (server.readers.get(tab.person)!.has('one') && server.broken && told === 0) throw new Error(`${tab.name} does not tell of the bucket that differs`);
  }
  if (server.snapshots > snapshots) throw new Error('a bucket is fetched anew without end');
}

async function disturb(world: World, server: Server, tabs: Tab[], isSpoilt: boolean, step: number): Promise<void> {
  const tab = world.pick(tabs)!;
  const [key, bucket] = [world.pick([...'abcdefgh'])!, world.pick(BUCKETS)!];
  const row = server.rows.get(key);
  const title = `${step}`;
  const kind = world.random();
  if (kind < 0.25) {
    const seen = tab.client?.documents(STREAM).get(key);
    const op = !seen ? 'insert' : world.chance(0.2) ? 'delete' : 'update';
    const fields = world.chance(0.5) ? { title } : { body: title };
    tab.change(key, op, op === 'delete' ? undefined : op === 'insert' ? { bucket, ...fields } : fields);
  } else if (kind < 0.5) server.drain();
  else if (kind < 0.65) server.commit(key, world.chance(0.2) ? undefined : { bucket: world.chance(0.3) ? bucket : (row?.bucket ?? bucket), fields: { ...row?.fields, title } }, 'others');
  else if (kind < 0.71) tab.goOnline(!tab.isOnline);
  else if (kind < 0.85) {
    if (tab.client) tab.kill();
    else {
      if (isSpoilt && world.chance(0.5)) tab.spoil();
      await tab.open();
    }
  } else if (kind < 0.9) tab.socket?.end(world.pick([1001, 1006, 1013, 4401])!);
  else if (kind < 0.95) {
    const readable = server.readers.get(tab.person)!;
    if (readable.delete(bucket)) return;
    // Whoever has it still may have missed something between two pages that did not say so. The sums do.
    for (const other of tabs) if (other.person === tab.person && other.has(bucket)) other.isSpoilt = true;
    readable.add(bucket);
  } else for (const copy of server.copies.values()) server.forgetDeletes(copy);
}
