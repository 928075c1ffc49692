"""Live sync, shown by real clients: what one writes the others see, and what two write at once is told."""

import json
import os
import queue
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from clients import Failure, Psql, Stack, literal  # isort: skip
import board  # isort: skip
import npm  # isort: skip
import sluice  # isort: skip
from story import STALL_S, line, show_times, title  # isort: skip

STREAM = "board_notes"
# Who is a member of which board. They are accounts of this stack alone.
MEMBERS = {"ada": "red", "ben": "red", "cleo": "blue"}
PACE_S = 1.2  # clients are told of a board once a second at most: what follows is to be the first for a while
PASSWORD = "a-password-for-the-demo"


class Clients:
    """Clients of live sync in a process of Node: each is told what to do, and its events are waited for."""

    def __init__(self, process: subprocess.Popen):
        self._process, self._events = process, queue.SimpleQueue()
        self.shown: dict[str, dict] = {}  # by client, the last event that says what it shows
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for text in self._process.stdout:
            self._events.put(json.loads(text))
        self._events.put(None)

    def tell(self, client: str, what: str, **more) -> None:
        """Has a client do something."""
        try:
            self._process.stdin.write(json.dumps({"client": client, "do": what, **more}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise Failure("the clients have ended") from error

    def wait(self, words: str, is_it: Callable[[dict], bool]) -> dict:
        """The event that is meant, what is shown already included. A Failure where nothing comes for long, or a client cannot go on."""
        deadline = time.monotonic() + STALL_S
        if found := next(filter(is_it, self.shown.values()), None):
            return found
        while True:
            try:
                event = self._events.get(timeout=max(deadline - time.monotonic(), 0.001))
            except queue.Empty:
                raise Failure(f"{words}: nothing of it came for {STALL_S} s; see make logs") from None
            if event is None:
                raise Failure(f"{words}: the clients have ended; what they said is above")
            if event["event"] == "error":
                raise Failure(f"{words}: {event['client']} says: {event['words']}")
            if event["event"] == "shows":
                self.shown[event["client"]] = event
            if is_it(event):
                return event

    def wait_for_note(self, client: str, key: str, **wanted) -> dict:
        """Until a client shows a note like this."""

        def is_it(event: dict) -> bool:
            note = event.get("documents", {}).get(key, {})
            return event["event"] == "shows" and event["client"] == client and note.items() >= wanted.items()

        return self.wait(f"a note of {client} with {wanted}", is_it)

    def wait_until_sent(self, *names: str) -> None:
        """Until nothing of theirs is on the way."""
        left = set(names)

        def is_it(event: dict) -> bool:
            if event["event"] == "shows" and event["waiting"] == 0 and event["state"] == "live":
                left.discard(event["client"])
            return not left

        self.wait(f"that all of {', '.join(names)} is written", is_it)


@contextmanager
def clients(stack: Stack) -> Iterator[Clients]:
    """They end with it."""
    node = ["node", *(["--experimental-websocket"] if npm.node_version() < (22,) else [])]
    command = [*node, npm.BOARD / "dist" / "clients.js", sluice.sync_url(stack), STREAM]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=os.environ | npm.env(), stdin=pipe, stdout=pipe, text=True, encoding="utf-8") as process:
        try:
            yield Clients(process)
        finally:
            process.terminate()


def show(stack: Stack) -> None:
    """The story."""
    owner = Psql(stack, "sluice_owner")
    title("A board is defined in SQL")
    owner.transaction(npm.BOARD / "define.sql")
    owner.run("DELETE FROM board.note WHERE board IN ('red', 'blue')")
    line("board_notes", "goes to clients: each board is a bucket, which its members read and write")
    with clients(stack) as they:
        for name, of in MEMBERS.items():
            they.tell(name, "login", email=f"{name}@example.com", password=PASSWORD)
            person = they.wait(f"the login of {name}", lambda event: event["event"] == "login")["sub"]
            owner.run(f"INSERT INTO board.member VALUES ({literal(of)}, {literal(person)}) ON CONFLICT DO NOTHING")
            they.tell(name, "online")
            they.wait(f"that {name} is connected", lambda event, name=name: event["client"] == name and event.get("state") == "live")
            line(name, f"has an account, is a member of {of}, and is connected")
        key = str(uuid.uuid4())
        answered_ms, committed_ms = show_steps(owner, they, key)
        show_conflict(owner, they, key)
        if key in they.shown["cleo"]["documents"]:
            raise Failure("cleo sees a note of a board that is not hers")
        line("cleo", "who is a member of another board, was told nothing of it")
    title("Summary")
    line("seen by others", f"{answered_ms:.0f} ms after the write was answered, {committed_ms:.0f} ms after a commit in PostgreSQL")
    show_times()
    print("\nWhat to try next")
    print(f"  {board.url(stack)}   # in two windows: register, or log in as ada@example.com and ben@example.com, password {PASSWORD}")
    print(f'  echo "INSERT INTO board.note SELECT gen_random_uuid(), \'red\', \'todo\', \'From psql\', \'\', 9, \'psql\'" | make psql{stack.argument}')
    print(f"  make logs{stack.argument} SERVICE=sluice\n  make down{stack.argument}")


def show_steps(owner: Psql, they: Clients, key: str) -> tuple[float, float]:
    """One writes, another sees it: by a client, and in PostgreSQL. Milliseconds from the answer, and from the commit."""
    title("Ada writes, Ben sees it")
    time.sleep(PACE_S)
    note = {"id": key, "board": "red", "lane": "todo", "title": "Write the minutes", "body": "", "position": 1, "edited_by": "ada@example.com"}
    they.tell("ada", "change", key=key, op="insert", fields=note)
    answered = they.wait("the answer", lambda event: event["event"] == "answered" and event["client"] == "ada")["at"]
    seen = they.wait_for_note("ben", key, title="Write the minutes")["at"]
    line("ben", f"shows Ada's note {seen - answered:.0f} ms after her write was answered")
    they.wait_until_sent("ada")
    time.sleep(PACE_S)
    owner.run(f"UPDATE board.note SET title = 'Write the minutes today' WHERE id = {literal(key)}")
    committed = time.time() * 1000
    seen_too = they.wait_for_note("ben", key, title="Write the minutes today")["at"]
    line("ben", f"shows what was written by an UPDATE {seen_too - committed:.0f} ms after its commit")
    return seen - answered, seen_too - committed


def show_conflict(owner: Psql, they: Clients, key: str) -> None:
    """Two change the same without having seen each other's change."""
    title("Ada goes offline, and both change the note")
    they.wait_for_note("ada", key, title="Write the minutes today")
    they.tell("ada", "offline")
    they.wait("that Ada is offline", lambda event: event["client"] == "ada" and event.get("state") == "offline")
    they.tell("ada", "change", key=key, op="update", fields={"title": "Minutes, by Ada"})
    they.wait_for_note("ada", key, title="Minutes, by Ada")
    they.tell("ben", "change", key=key, op="update", fields={"title": "Minutes, by Ben", "body": "with an agenda"})
    they.wait("Ben's answer", lambda event: event["event"] == "answered" and event["client"] == "ben")
    line("ada", "shows her own title, and keeps it until she is online")
    they.tell("ada", "online")
    conflict = they.wait("the conflict", lambda event: event["event"] == "conflict")
    line(conflict["client"], f"is told that somebody else changed it, too; hers is {'' if conflict['isApplied'] else 'not '}written, and both are kept")
    wanted = {"title": "Minutes, by Ada", "body": "with an agenda"}
    for name in ("ada", "ben"):
        they.wait_for_note(name, key, **wanted)
    source = owner.run(f"SELECT title, body FROM board.note WHERE id = {literal(key)}")
    if source != [list(wanted.values())]:
        raise Failure(f"PostgreSQL has {source}, and the clients {wanted}")
    line("both", "show her title and his text, as PostgreSQL has them")
