/**
 * Several clients in one process, for whoever writes to its standard input what they are to do, a line of JSON each, and reads what they
 * show: `{"client": "ada", "do": "login", "email": …, "password": …}`, then `online`, `offline` and `change` with `key`, `op`, `fields`.
 */

import { createInterface } from 'node:readline';
import { Account } from './account.js';
import { SyncClient } from './sync-client.js';
import { Refused } from './sync-http.js';
import type { Change } from './sync-store.js';

type Command = { client: string; do: 'login' | 'online' | 'offline' | 'change' } & Pick<Change, 'key' | 'op' | 'fields'> & { email: string; password: string };

const [url, stream] = [process.argv[2]!, process.argv[3]!];
const clients = new Map<string, { account: Account; sync: SyncClient }>();

/** `at` is in milliseconds since 1970. */
const say = (client: string, event: string, more: object = {}) => console.log(JSON.stringify({ at: Date.now(), client, event, ...more }));

async function login({ client, email, password }: Command): Promise<void> {
  const account = new Account({ url });
  try {
    await account.login(email, password);
  } catch (error) {
    if (!(error instanceof Refused && error.status === 401)) throw error;
    await account.register(email, password); // registrations are counted
    await account.login(email, password);
  }
  const answered = new Set<string>();
  const sync: SyncClient = await SyncClient.open({
    url,
    token: account.token,
    onChange() {
      for (const { id, key, snapshot } of sync.changes) {
        if (snapshot && !answered.has(id)) say(client, 'answered', { key });
        if (snapshot) answered.add(id);
      }
      say(client, 'shows', { documents: Object.fromEntries(sync.documents(stream)), waiting: sync.changes.length, state: sync.state });
    },
    onConflict: ({ key }, isApplied) => say(client, 'conflict', { key, isApplied }),
    onRejected: ({ key }, reason) => say(client, 'rejected', { key, reason }),
    onError: (error) => say(client, 'error', { words: error.message }),
  });
  clients.set(client, { account, sync });
  say(client, 'login', account.claims);
}

async function carryOut(command: Command): Promise<void> {
  if (command.do === 'login') return login(command);
  const { sync } = clients.get(command.client)!;
  if (command.do === 'online') sync.start();
  if (command.do === 'offline') await sync.stop();
  if (command.do === 'change') await sync.change(stream, command.key, command.op, command.fields);
}

for await (const line of createInterface(process.stdin)) {
  const command = JSON.parse(line) as Command;
  await carryOut(command).catch((error: Error) => say(command.client, 'error', { words: error.message }));
}
for (const { sync } of clients.values()) await sync.stop();
