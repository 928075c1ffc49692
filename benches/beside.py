"""Log to queue while the direct targets, or live sync, drain the same log: what that costs the trigger."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import clickhouse
import goals
import kafka
import process
from live import BUCKET_OF, TOKENS
from targets import QUICK, ROWS_OF_200, SIZE, Backlog
from world import World, cpu_s

OTHERS = ("clickhouse", "kafka")
SYNC = "sync"
SESSIONS_OF = {SYNC: 2}  # it writes on a session of its own
BUCKETS = f"SET ROLE sluice_owner; {BUCKET_OF} SELECT sluice.define_bucket('books', bucket => 'author', readers => 'demo.bucket_of');"
ITEMS = "SELECT seq FROM sluice.sync_head"  # one more for each that is stored
LOOPS = 2  # alone, both others together use as much CPU, though by more processes
PATIENCE_S = 60
SESSIONS = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name ~ '^sluice{words}'"


class Beside(Backlog):
    """A backlog that the trigger drains, alone or while the direct targets' functions, or that of live sync, do the same."""

    def define(self) -> None:
        super().define()
        self.world.sql(BUCKETS)
        self.env |= TOKENS

    def run(self, others: tuple[str, ...] = (), is_apart: bool = False, loops: int = 0) -> dict[str, float]:
        """Until the trigger has sent all of it. `is_apart`: it and its sessions have half of the cores, all others the other half.
        `loops`: so many processes beside it that only use a core each."""
        cores = sorted(os.sched_getaffinity(0))
        half, rest = (cores[: max(len(cores) // 2, 1)], cores[len(cores) // 2 :]) if is_apart else (cores, cores)
        self.world.ask("reset", {"keeps": False})
        before = self.sessions()
        trigger = self.world.start("trigger", 0, DRAIN="once", STAY="70s")
        self.world.ask("invoke/0", {})  # there is nothing to do: it connects
        sessions = self.sessions() - before
        functions = [self.world.start(name, number, **self.env, DRAIN="once", STAY="10s") for number, name in enumerate(others, 1)]
        burners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(loops)]
        is_over = threading.Event()
        threads = [threading.Thread(target=self.keep_busy, args=[*one, is_over], daemon=True) for one in enumerate(others, 1)]
        try:
            with pinned(half, cores, {trigger.pid, self.world.server.pid} | sessions), pinned(rest, cores, self.servers() | {one.pid for one in functions}):
                for thread in threads:
                    thread.start()
                deadline = time.monotonic() + PATIENCE_S
                while len(theirs := self.sessions(" (drain|sync)") - sessions) < sum(SESSIONS_OF.get(name, 1) for name in others):
                    assert time.monotonic() < deadline, f"not all of {others} connect within {PATIENCE_S} s"
                    time.sleep(0.02)
                pin(rest, theirs)
                self.rewind()
                return self.measure(trigger.pid, sessions)
        finally:
            is_over.set()
            for thread in threads:
                if thread.is_alive():
                    thread.join()
            for function in (trigger, *functions, *burners):
                function.kill()
                function.wait()

    def measure(self, trigger: int, sessions: set[int]) -> dict[str, float]:
        """The trigger, until all is sent, and what the others do meanwhile."""
        had, began = self.used(trigger, sessions), time.monotonic()
        while self.world.ask("counted")["queue"]["changes"] < self.rows:
            self.world.ask("invoke/0", {})
        seconds, has = time.monotonic() - began, self.used(trigger, sessions)
        *used, rows, messages, items = (now - then for then, now in zip(had, has, strict=True))
        own, database, waited = (one * 1e6 / self.rows for one in used)
        return {"documents/s": self.rows / seconds, "CPU s/million": own, "its sessions'": database, "both waited for a core": waited,
                "rows/s to ClickHouse": rows / seconds, "messages/s to Kafka": messages / seconds, "items/s to live sync": items / seconds}  # fmt: skip

    def used(self, trigger: int, sessions: set[int]) -> tuple[float, ...]:
        """Seconds of CPU, seconds in which a core was wanted and not had, and what has arrived."""
        waited = sum(map(waited_s, {trigger} | sessions))
        return cpu_s(trigger), sum(map(cpu_s, sessions)), waited, self.rows_inserted(), self.messages_in("books"), int(self.world.sql(ITEMS))

    def keep_busy(self, number: int, name: str, is_over: threading.Event) -> None:
        """Drains all of it again and again."""
        while not is_over.is_set():
            if not self.world.ask(f"invoke/{number}", {})["changes"]:
                self.rewind(name)

    def rows_inserted(self) -> int:
        """Since ClickHouse was started."""
        return int(self.ask("SELECT sum(value) FROM system.events WHERE event = 'MergeTreeDataWriterRows'"))

    def sessions(self, words: str = "") -> set[int]:
        """The functions', by the processes of PostgreSQL."""
        return {int(pid) for pid in self.world.sql(SESSIONS.format(words=words)).split()}

    def servers(self) -> set[int]:
        """The targets' processes."""
        return {one.pid for server in (clickhouse, kafka) for one in process.find_all(self.world.stack, server.NAME)}


def waited_s(pid: int) -> float:
    """Seconds in which its threads could have run, and something else did."""
    return sum(int(thread.read_text().split()[1]) for thread in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


@contextmanager
def pinned(cores: list[int], all_cores: list[int], pids: set[int]) -> Iterator[None]:
    """Processes that have these cores alone."""
    pin(cores, pids)
    try:
        yield
    finally:
        pin(all_cores, pids)


def pin(cores: list[int], pids: set[int]) -> None:
    """All of their threads; a process that has ended is passed over."""
    for pid in pids:
        for thread in Path(f"/proc/{pid}/task").glob("*"):
            try:
                os.sched_setaffinity(int(thread.name), cores)
            except ProcessLookupError:
                pass


def benches(world: World, is_quick: bool) -> Iterator[tuple]:
    """On all cores, and where each has cores of its own; and beside what only uses as much CPU."""
    rows = QUICK if is_quick else ROWS_OF_200
    backlog = Beside(world, SIZE, rows, "book")
    backlog.drain()
    contestants = {
        "sluice": backlog.run,
        goals.BESIDE: lambda: backlog.run(OTHERS),
        goals.LOOPS: lambda: backlog.run(loops=LOOPS),
        goals.APART: lambda: backlog.run(is_apart=True),
        goals.APART_BESIDE: lambda: backlog.run(OTHERS, is_apart=True),
        goals.APART_SYNC: lambda: backlog.run((SYNC,), is_apart=True),
    }
    yield "beside", f"Drain: {rows:,} documents of {SIZE} B, while others drain the same log", contestants, 1 if is_quick else 3
