/** A board that several people edit, each in a tab, offline too. All that it shows comes from `SyncClient`. */

import { Account, type Tokens } from './account.js';
import { type Conflict, drawConflicts } from './conflicts.js';
import { element, find, toast } from './page.js';
import { SyncClient } from './sync-client.js';
import { type Change, IndexedDbStore } from './sync-store.js';

const STREAM = 'board_notes';
const LANES = { todo: 'To do', doing: 'Doing', done: 'Done' };
const ORDER = Object.keys(LANES) as Lane[];
const STATES = { live: 'Live', polling: 'In step, twice a minute', offline: 'Offline' };
/** Between two keys that somebody types. */
const TYPING_MS = 300;

type Lane = keyof typeof LANES;
type Note = { id: string; board: string; lane: Lane; title: string; body: string; position: number; edited_by: string };

const url = find<HTMLMetaElement>('meta[name=sync-url]').content || location.origin;
const login = find<HTMLFormElement>('#login');
const [boards, offline] = [find<HTMLSelectElement>('#boards'), find<HTMLInputElement>('#offline')];
const lanes = Object.fromEntries(ORDER.map((lane) => [lane, makeLane(lane)])) as Record<Lane, ReturnType<typeof makeLane>>;
const views = new Map<string, ReturnType<typeof makeView>>();

/** Each tab is a client of its own, and has a place where it keeps its tokens and its copy: the first that no other tab has. */
const place = await new Promise<string>((resolve) => {
  const claim = (number: number): void => {
    void navigator.locks.request(`board ${number}`, { ifAvailable: true }, (lock) => {
      if (!lock) return claim(number + 1);
      resolve(`board ${number}`);
      return new Promise(() => {}); // until the tab is closed
    });
  };
  claim(1);
});
const kept = (localStorage[place] ? JSON.parse(localStorage[place]) : {}) as { tokens?: Tokens; isOffline?: boolean; board?: string; dismissed?: number };
const keep = (what: Partial<typeof kept>) => (localStorage[place] = JSON.stringify(Object.assign(kept, what)));

const account = new Account({
  url,
  tokens: kept.tokens,
  onTokens(tokens) {
    keep({ tokens: tokens as Tokens }); // undefined is left out
    if (!tokens && client) void end('Your session has ended: log in again. What you have written is kept.');
  },
});
let client: SyncClient | undefined;
let store: IndexedDbStore | undefined;
let conflicts: Conflict[] = [];

// Who

login.onsubmit = async (event) => {
  event.preventDefault();
  const { email, password } = Object.fromEntries(new FormData(login)) as Record<string, string>;
  const problem = find('#login .problem');
  problem.textContent = '';
  try {
    if ((event.submitter as HTMLButtonElement | null)?.name === 'register') await account.register(email!, password!);
    await account.login(email!, password!);
    login.reset();
    await begin();
  } catch (error) {
    problem.textContent = (error as Error).message;
  }
};

find('#logout').onclick = async () => {
  const left = client?.changes.length ?? 0;
  if (left > 0 && !confirm(`${count(left, 'change')} did not reach the server, and will be lost. Log out?`)) return;
  await client?.stop();
  client = undefined;
  await store?.delete();
  keep({ isOffline: false });
  account.logout().catch(() => {}); // the tokens are forgotten here in any case
  await end('');
};

async function begin(): Promise<void> {
  const { claims } = account;
  login.hidden = Boolean(claims);
  find('#session').hidden = find('#lanes').hidden = !claims;
  if (!claims) return draw();
  find('#who').textContent = claims.email;
  offline.checked = kept.isOffline ?? false;
  store = new IndexedDbStore(`${place} ${claims.sub}`);
  client = await SyncClient.open({
    url,
    token: account.token,
    store,
    onChange: draw,
    onConflict(change, isApplied, reason) {
      toast(`Somebody else changed “${titleOf(change)}”, too. ${isApplied ? 'Yours is written' : `Theirs stays${reason ? `: ${reason}` : ''}`}.`);
      void listConflicts();
    },
    onRejected: (change, reason) => toast(`“${titleOf(change)}” was not written: ${reason}`),
    onError: (error) => console.warn(error.message),
  });
  draw();
  if (offline.checked) return;
  client.start();
  void listConflicts();
}

async function end(words: string): Promise<void> {
  await client?.stop();
  client = store = undefined;
  conflicts = [];
  find('#login .problem').textContent = words;
  await begin();
}

offline.onchange = () => {
  keep({ isOffline: offline.checked });
  if (offline.checked) return void client?.stop();
  client?.start();
  void listConflicts();
};
addEventListener('online', () => !offline.checked && client?.start());

// What is shown

const notes = () => [...(client?.documents(STREAM).values() ?? [])] as Note[];
const titleOf = ({ key, fields, seen }: Change) => String(fields?.title ?? seen?.title ?? notes().find(({ id }) => id === key)?.title ?? '') || 'Untitled';
const count = (number: number, word: string) => `${number} ${word}${number === 1 ? '' : 's'}`;

function draw(): void {
  const state = client?.state ?? 'offline';
  const waiting = client?.changes.length ?? 0;
  find('#state').dataset.state = state;
  find('#state').textContent = client ? STATES[state] + (waiting > 0 ? `, ${count(waiting, 'change')} waiting` : '') : '';
  const readable = client?.buckets(STREAM) ?? [];
  if (readable.join() !== [...boards.options].map(({ value }) => value).join()) boards.replaceChildren(...readable.map((name) => new Option(name)));
  boards.value = readable.includes(kept.board ?? '') ? kept.board! : (readable[0] ?? '');
  find('#choose').hidden = readable.length < 2;
  const shown = notes().filter(({ board }) => board === boards.value);
  shown.sort((a, b) => a.position - b.position || (a.id < b.id ? -1 : 1));
  for (const [id, { article }] of views) {
    if (shown.some((note) => note.id === id)) continue;
    article.remove();
    views.delete(id);
  }
  for (const lane of ORDER) drawLane(lane, shown.filter((note) => note.lane === lane), readable.length > 0);
  drawConflicts(conflicts.filter(({ number }) => number > (kept.dismissed ?? 0)), notes(), (id, fields) => change(id, fields));
}

/** Nothing is moved that is where it should be, so that whoever types goes on. */
function drawLane(lane: Lane, shown: Note[], hasBoard: boolean): void {
  const { list, number, add } = lanes[lane];
  number.textContent = String(shown.length);
  add.disabled = !hasBoard;
  for (const [at, note] of shown.entries()) {
    const view = views.get(note.id) ?? makeView(note.id);
    views.set(note.id, view);
    view.show(note);
    if (list.children[at] === view.article) continue;
    const focused = view.article.contains(document.activeElement) ? (document.activeElement as HTMLElement) : undefined;
    list.insertBefore(view.article, list.children[at] ?? null);
    focused?.focus();
  }
}

function makeLane(lane: Lane) {
  const [number, list] = [element('span'), element('div', { className: 'list' })];
  const add = element('button', { className: 'add', textContent: 'Add a note', type: 'button' });
  add.onclick = async () => {
    const id = crypto.randomUUID();
    const fields = { id, board: boards.value, lane, title: '', body: '', position: lastIn(lane) + 1, edited_by: account.claims!.email };
    await client?.change(STREAM, id, 'insert', fields);
    views.get(id)?.article.querySelector('input')?.focus();
  };
  const section = element('section', { className: 'lane', ariaLabel: LANES[lane] }, element('h2', {}, LANES[lane], number), list, add);
  section.ondragover = (event) => event.preventDefault();
  section.ondrop = (event) => {
    event.preventDefault();
    const note = notes().find(({ id }) => id === event.dataTransfer?.getData('text/plain'));
    if (note) move(note, lane);
  };
  find('#lanes').append(section);
  return { list, number, add };
}

function makeView(id: string) {
  const title = element('input', { name: 'title', placeholder: 'Title', maxLength: 200, ariaLabel: 'Title' });
  const body = element('textarea', { name: 'body', placeholder: 'Text', maxLength: 10_000, rows: 1, ariaLabel: 'Text' });
  for (const field of [title, body]) {
    let timer: ReturnType<typeof setTimeout> | undefined;
    const write = () => {
      clearTimeout(timer);
      const note = notes().find((other) => other.id === id);
      if (note && note[field.name as 'title' | 'body'] !== field.value) change(id, { [field.name]: field.value });
    };
    field.oninput = () => {
      clearTimeout(timer);
      timer = setTimeout(write, TYPING_MS);
    };
    field.onchange = write;
  }
  const grip = element('span', { className: 'grip', draggable: true, title: 'Drag to another lane' });
  const [by, back, forth] = [element('span', { className: 'by' }), element('button', { type: 'button' }), element('button', { type: 'button' })];
  const remove = element('button', { type: 'button', textContent: '×', title: 'Delete', ariaLabel: 'Delete' });
  remove.onclick = () => void client?.change(STREAM, id, 'delete');
  const footer = element('footer', {}, by, back, forth, remove);
  const article = element('article', { className: 'note' }, grip, title, body, footer);
  article.dataset.id = id;
  grip.ondragstart = (event) => {
    event.dataTransfer?.setData('text/plain', id);
    event.dataTransfer?.setDragImage(article, 10, 10);
  };
  /** Where a field has something else, it is being typed. */
  const shown = new Map<HTMLElement, string>([[title, ''], [body, '']]);
  const show = (note: Note) => {
    for (const field of [title, body]) {
      const value = note[field.name as 'title' | 'body'];
      if (field.value !== value && field.value === shown.get(field)) {
        const { selectionStart, selectionEnd } = field;
        field.value = value;
        if (field === document.activeElement) field.setSelectionRange(selectionStart, selectionEnd);
      }
      shown.set(field, value);
    }
    const isWaiting = client?.changes.some(({ key }) => key === id) ?? false;
    article.classList.toggle('waiting', isWaiting);
    by.textContent = isWaiting ? 'waiting' : note.edited_by;
    const at = ORDER.indexOf(note.lane);
    for (const [button, lane, arrow] of [[back, ORDER[at - 1], '←'], [forth, ORDER[at + 1], '→']] as const) {
      button.hidden = !lane;
      if (!lane) continue;
      button.textContent = arrow;
      button.title = button.ariaLabel = `Move to ${LANES[lane]}`;
      button.onclick = () => move(note, lane);
    }
  };
  return { article, show };
}

const lastIn = (lane: Lane) => Math.max(0, ...notes().filter((note) => note.lane === lane).map(({ position }) => position));

function move(note: Note, lane: Lane): void {
  if (note.lane !== lane) change(note.id, { lane, position: lastIn(lane) + 1 });
}

function change(id: string, fields: Partial<Note>): void {
  void client?.change(STREAM, id, 'update', { ...fields, edited_by: account.claims!.email });
}

boards.onchange = () => {
  keep({ board: boards.value });
  draw();
};

find('#dismiss').onclick = () => {
  keep({ dismissed: conflicts.at(-1)?.number ?? 0 });
  draw();
};

/** All of the boards that may be read. It is tried again with the next one. */
async function listConflicts(): Promise<void> {
  const found: Conflict[] = [];
  for (let after = kept.dismissed ?? 0, more = true; more; ) {
    const headers = { Authorization: `Bearer ${await account.token(false).catch(() => '')}` };
    const answer = await fetch(`${url}/sync/conflicts?after=${after}`, { headers }).catch(() => undefined);
    if (!answer?.ok) return;
    const page = (await answer.json()) as { conflicts: Conflict[]; upto: number; more: boolean };
    found.push(...page.conflicts);
    ({ upto: after, more } = page);
  }
  conflicts = found;
  draw();
}

await begin();
