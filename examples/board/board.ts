/** A board that several people edit, each in a tab, offline too. What is on it comes from `SyncClient` alone. */

import { type Change, type Fields, IndexedDbStore, SyncClient } from "./sync-client.js";

const STREAM = "board_notes";
const LANES = { todo: "To do", doing: "Doing", done: "Done" } as const;
type Lane = keyof typeof LANES;
type Note = { id: string; board: string; lane: Lane; title: string; body: string; position: number; edited_by: string };
type Tokens = { access_token: string; refresh_token: string; expires_in: number };
type Conflict = { number: number; key: string; applied: boolean; fields: Fields | null; document: Fields | null };

const url = document.querySelector<HTMLMetaElement>("meta[name=sync-url]")?.content ?? location.origin;
const find = <E extends HTMLElement>(selector: string) => document.querySelector<E>(selector)!;
const [login, board, conflicts, offline] = [find<HTMLFormElement>("#login"), find("#board"), find("#conflicts"), find<HTMLInputElement>("#offline")];

/** Each tab is a client of its own: what it keeps has its name. */
const tab = (sessionStorage.tab ??= crypto.randomUUID());
let client: SyncClient | undefined;

// Who

async function ask(path: string, body: unknown, token?: string): Promise<Response> {
  const headers = { "Content-Type": "application/json", ...(token && { Authorization: `Bearer ${token}` }) };
  return fetch(url + path, { method: "POST", headers, body: JSON.stringify(body) });
}

function keep(tokens: Tokens): void {
  sessionStorage.tokens = JSON.stringify({ ...tokens, until: Date.now() + (tokens.expires_in - 60) * 1000 });
}

/** One refresh at a time: a refresh token is used once. */
let refreshing: Promise<string> | undefined;

async function token(isRefused: boolean): Promise<string> {
  const { access_token, refresh_token, until } = JSON.parse(sessionStorage.tokens);
  if (!isRefused && Date.now() < until) return access_token;
  refreshing ??= (async () => {
    const answer = await ask("/auth/refresh", { refresh_token });
    if (answer.status === 401) logOut();
    if (!answer.ok) throw new Error("the token could not be refreshed");
    const tokens = (await answer.json()) as Tokens;
    keep(tokens);
    return tokens.access_token;
  })().finally(() => (refreshing = undefined));
  return refreshing;
}

const email = (): string => JSON.parse(atob(JSON.parse(sessionStorage.tokens).access_token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/"))).email;

login.onsubmit = async (event) => {
  event.preventDefault();
  const form = Object.fromEntries(new FormData(login));
  const problem = find("#login .problem");
  problem.textContent = "";
  try {
    if ((event.submitter as HTMLButtonElement).name === "register") {
      const made = await ask("/auth/register", form);
      if (!made.ok) throw new Error((await made.json()).detail);
    }
    const answer = await ask("/auth/login", form);
    if (!answer.ok) throw new Error((await answer.json()).detail);
    keep((await answer.json()) as Tokens);
    login.reset();
    begin();
  } catch (error) {
    problem.textContent = (error as Error).message;
  }
};

function logOut(): void {
  client?.stop();
  if (sessionStorage.tokens) void ask("/auth/logout", { refresh_token: JSON.parse(sessionStorage.tokens).refresh_token });
  sessionStorage.clear();
  location.reload();
}
find("#logout").onclick = logOut;

// Sync

function begin(): void {
  const isIn = Boolean(sessionStorage.tokens);
  login.hidden = isIn;
  for (const element of [board, find("#logout"), find(".switch")]) element.hidden = !isIn;
  if (!isIn) return;
  find("#who").textContent = email();
  client = new SyncClient({
    url,
    token,
    store: new IndexedDbStore(`board ${tab}`),
    onChange: draw,
    onConflict: (change, applied) => {
      toast(`Somebody else changed “${nameOf(change)}” as well. ${applied ? "Yours is written" : "Theirs stays"}; both are listed below.`);
      void listConflicts();
    },
    onRejected: (change, reason) => toast(`“${nameOf(change)}” was not written: ${reason}`),
    onError: (error) => console.error(error),
  });
  if (!offline.checked) void client.start().then(listConflicts);
}

offline.onchange = () => {
  client?.stop();
  if (offline.checked) draw();
  else begin();
};

const notes = () => [...(client?.documents(STREAM).values() ?? [])] as Note[];
const nameOf = (change: Change) => String(change.fields?.title ?? change.seen?.title ?? "a note");

function change(note: Note, fields: Partial<Note>): void {
  void client?.change(STREAM, note.id, "update", { ...fields, edited_by: email() });
}

// What is shown

function element<K extends keyof HTMLElementTagNameMap>(name: K, properties: Partial<HTMLElementTagNameMap[K]> = {}, ...children: (Node | string)[]): HTMLElementTagNameMap[K] {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function draw(): void {
  const state = offline.checked ? "offline" : (client?.state ?? "offline");
  const waiting = client?.changes.length ?? 0;
  find("#state").dataset.state = state;
  const words = { live: "live", polling: "in step, without pushes", offline: "offline" }[state];
  find("#state").textContent = waiting > 0 ? `${words}, ${waiting} ${waiting === 1 ? "change" : "changes"} on the way` : words;
  // What somebody is typing stays as it is.
  const focused = document.activeElement as HTMLInputElement | null;
  const typing = focused?.closest<HTMLElement>(".note") && { id: focused.closest<HTMLElement>(".note")!.dataset.id, name: focused.name, value: focused.value, at: focused.selectionStart };
  const all = notes().sort((a, b) => a.position - b.position || (a.id < b.id ? -1 : 1));
  board.replaceChildren(...(Object.keys(LANES) as Lane[]).map((lane) => drawLane(lane, all.filter((note) => note.lane === lane))));
  if (!typing) return;
  const again = board.querySelector<HTMLInputElement>(`[data-id="${typing.id}"] [name="${typing.name}"]`);
  if (!again) return;
  again.value = typing.value;
  again.focus();
  again.setSelectionRange?.(typing.at, typing.at);
}

function drawLane(lane: Lane, shown: Note[]): HTMLElement {
  const add = element("button", { className: "quiet", textContent: "Add a note" });
  add.onclick = async () => {
    const id = crypto.randomUUID();
    const last = Math.max(0, ...shown.map((note) => note.position));
    await client?.change(STREAM, id, "insert", { id, board: "demo", lane, title: "", body: "", position: last + 1, edited_by: email() });
    board.querySelector<HTMLInputElement>(`[data-id="${id}"] input`)?.focus();
  };
  const made = element("section", { className: "lane" }, element("h2", {}, LANES[lane], element("span", { textContent: String(shown.length) })), ...shown.map(drawNote), add);
  made.setAttribute("aria-label", LANES[lane]);
  made.ondragover = (event) => {
    event.preventDefault();
    made.classList.add("over");
  };
  made.ondragleave = () => made.classList.remove("over");
  made.ondrop = (event) => {
    const note = notes().find(({ id }) => id === event.dataTransfer?.getData("text/plain"));
    if (note && note.lane !== lane) change(note, { lane, position: Math.max(0, ...shown.map(({ position }) => position)) + 1 });
  };
  return made;
}

function drawNote(note: Note): HTMLElement {
  const title = element("input", { name: "title", value: note.title, placeholder: "Title", ariaLabel: "Title" });
  const body = element("textarea", { name: "body", value: note.body, placeholder: "More", ariaLabel: "More", rows: 1 });
  for (const field of [title, body]) {
    field.onchange = () => change(note, { [field.name]: field.value });
  }
  const order = Object.keys(LANES) as Lane[];
  const next = order[order.indexOf(note.lane) + 1];
  const move = element("button", { className: "quiet", textContent: next ? `${LANES[next]} →` : "", hidden: !next });
  move.onclick = () => next && change(note, { lane: next });
  const remove = element("button", { className: "quiet", textContent: "Delete" });
  remove.onclick = () => void client?.change(STREAM, note.id, "delete");
  const isPending = client?.changes.some(({ key }) => key === note.id);
  const made = element("article", { className: `note${isPending ? " pending" : ""}`, draggable: true }, title, body, element("footer", {}, element("span", { textContent: note.edited_by }), element("span", {}, move, remove)));
  made.dataset.id = note.id;
  made.ondragstart = (event) => event.dataTransfer?.setData("text/plain", note.id);
  return made;
}

async function listConflicts(): Promise<void> {
  const answer = await fetch(`${url}/sync/conflicts`, { headers: { Authorization: `Bearer ${await token(false)}` } });
  if (!answer.ok) return;
  const { conflicts: listed } = (await answer.json()) as { conflicts: Conflict[] };
  conflicts.hidden = listed.length === 0;
  conflicts.querySelector("ol")!.replaceChildren(
    ...listed.map((conflict) => {
      const say = (fields: Fields | null) => (fields ? Object.entries(fields).filter(([name]) => ["title", "body", "lane"].includes(name)).map(([name, value]) => `${name}: ${value}`).join(", ") : "deleted");
      const [sent, there] = [element("dl", {}, element("dt", { textContent: "sent" }), element("dd", { textContent: say(conflict.fields) })), element("dl", {}, element("dt", { textContent: "was there" }), element("dd", { textContent: say(conflict.document) }))];
      const use = element("button", { className: "quiet", textContent: conflict.applied ? "Use what was there" : "Use what was sent" });
      use.onclick = () => {
        const note = notes().find(({ id }) => id === conflict.key);
        const { title, body, lane } = (conflict.applied ? conflict.document : conflict.fields) as Partial<Note>;
        if (note) change(note, JSON.parse(JSON.stringify({ title, body, lane })));
      };
      return element("li", {}, sent, there, use);
    }),
  );
}

function toast(words: string): void {
  const made = element("p", { textContent: words });
  find("#toasts").append(made);
  setTimeout(() => made.remove(), 12_000);
}

begin();
draw();
