"""Source against index: how fast the validator compares them, what that costs the writers, and how soon there is a verdict."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import elasticsearch
import postgres
from capture import load, percentiles
from console import Failure
from drain import DOCUMENTS
from end_to_end import pipeline
from index import Messages
from world import INDEXERS, PREFIX, World, cpu_s, peak_mb

ROWS, QUICK = 100_000, 10_000
SIZE = 1024
PAGE = 1000  # the validator's
RATE, SECONDS, QUICK_SECONDS = 200, 20, 3  # of the writers
WARM_SECONDS = 3  # the functions connect, and what they call is compiled
PATIENCE_S = 60
FUNCTION = INDEXERS + 1  # the trigger is 0, the indexers are from 1 on
FASTEST = {"VALIDATE_RATE": "100000"}
INDEX = f"{PREFIX}books"
KEY = 1  # of the document that is damaged
ROUND = """
SELECT to_jsonb(v) || jsonb_build_object('seconds', extract(epoch FROM v.verdict_at - v.asked_at))
FROM sluice.validation_status() AS v WHERE v.stream = 'books';
"""
UPDATE = r"""
\set id random(1, {rows})
\set n random(1, 1000000)
UPDATE demo.book SET title = 'Book ' || :n WHERE id = :id;
"""
CHANGE = "UPDATE demo.book SET title = title || '.' WHERE id = {id}"
# From the last look at which what the difference's snapshot sees had not arrived.
VERDICT = f"""
SET statement_timeout = '{PATIENCE_S}s';
SELECT 'looks';
DO $$
DECLARE
    found CONSTANT pg_snapshot := (SELECT seen FROM sluice.difference WHERE stream = 'books' AND key = '{KEY}');
    looked_at timestamptz;
    waited_at timestamptz;
BEGIN
    LOOP
        looked_at := clock_timestamp();
        EXIT WHEN sluice.settled('elasticsearch', found, 'books');
        waited_at := looked_at;
        PERFORM pg_sleep(0.02);
    END LOOP;
    LOOP
        EXIT WHEN EXISTS (SELECT FROM sluice.validation_status() WHERE stream = 'books' AND state = 'done');
        PERFORM pg_sleep(0.02);
    END LOOP;
    PERFORM set_config('bench.waited_at', waited_at::text, false);
END $$;
SELECT extract(epoch FROM verdict_at - current_setting('bench.waited_at')::timestamptz) FROM sluice.validation_status() WHERE stream = 'books';
"""


class Compared:
    """Documents that have come from the source into the index through the functions."""

    def __init__(self, world: World, rows: int):
        self.world, self.rows = world, rows
        messages = Messages(world, rows)
        messages.backlog.drain(keeps=True)
        messages.written("indexer", rows)
        messages.check(INDEX, rows)

    def round(self) -> dict:
        """The last one, as it is now."""
        return json.loads(self.world.sql(ROUND))

    @contextmanager
    def validator(self, **more: str) -> Iterator[int]:
        """Has a round to do, and begins it when it is invoked; gives its pid."""
        function = self.world.start("validate", FUNCTION, VALIDATE_WITHIN="0s", **more)
        try:
            self.world.sql("SELECT sluice.validate('books')")
            yield function.pid
        finally:
            function.kill()
            function.wait()

    def invoke(self) -> None:
        """Until its time is over, or the round is."""
        self.world.ask(f"invoke/{FUNCTION}", {})

    @contextmanager
    def at_work(self, **more: str) -> Iterator[None]:
        """The validator, until its invocation ends by itself: so it leaves no lease behind that the next would wait for."""
        with self.validator(**more):
            invocation = threading.Thread(target=self.invoke, daemon=True)
            invocation.start()
            try:
                yield
            finally:
                invocation.join()

    @contextmanager
    def servers_cpu(self) -> Iterator[dict[str, float]]:
        """What the servers use meanwhile is in it at the end."""
        servers, used = {"PostgreSQL's": postgres, "Elasticsearch's": elasticsearch}, {}
        before = {name: self.world.cpu_of(server) for name, server in servers.items()}
        yield used
        used |= {name: (self.world.cpu_of(server) - before[name]) * 1e6 / self.rows for name, server in servers.items()}

    def compare(self) -> dict[str, float]:
        """A round, from the question to the verdict."""
        with self.validator(**FASTEST) as pid:
            with self.servers_cpu() as used:
                while (done := self.round())["state"] != "done":
                    self.invoke()
            assert (done["verdict"], done["checked"], done["printed_differently"]) == ("equal", self.rows, 0), done
            assert done["walked"] >= self.rows, done  # after each turn of a stream the walk goes on at the last one
            return {"documents/s": self.rows / done["seconds"], "CPU s/million": cpu_s(pid) * 1e6 / self.rows, **used, "peak MB": peak_mb(pid)}

    def read(self) -> dict[str, float]:
        """The same documents from both, compared by nobody."""
        with self.servers_cpu() as used:
            copied = self.world.run_bench("copy", DOCUMENTS.format(source="book"))
            got = self.world.run_bench("mget", INDEX, self.rows, PAGE)
        assert copied["rows"] == self.rows, copied
        return {"documents/s": self.rows / (copied["seconds"] + got["seconds"]), **used}

    @contextmanager
    def delivering(self) -> Iterator[None]:
        """The trigger and the indexers, until all has arrived: what is still under way would be lost with the queue."""
        with pipeline(self.world):
            yield
            until("what was written to arrive", lambda: self.world.sql("SELECT sluice.settled('elasticsearch', sluice.snapshot())").strip() == "t")

    def write(self, seconds: int, is_scrubbed: bool) -> dict[str, float]:
        """Updates at a steady rate, by pgbench, from when each was due: with the scrub at its default pace beside them, or without."""
        script, pace = UPDATE.format(rows=self.rows), ("--rate", str(RATE))
        with self.delivering(), self.at_work(STAY=f"{WARM_SECONDS + seconds + 5}s") if is_scrubbed else nullcontext():
            load(self.world, script, WARM_SECONDS, *pace)
            before = self.round()
            rate, times_us = load(self.world, script, seconds, *pace)
            after, told = self.round(), percentiles(times_us)
            measured = {"p99 ms": told["p99 ms"], "p50 ms": told["p50 ms"], "writes/s": rate}
            if is_scrubbed:
                assert "done" not in (before["state"], after["state"]), (before, after)
                measured["compared/s"] = (after["checked"] + after["walked"] - before["checked"] - before["walked"]) / seconds
            return measured

    def confirm(self) -> dict[str, float]:
        """One document is damaged, and a change is under way. When that has arrived, it is known that the document differs."""
        self.damage()
        self.world.sql(CHANGE.format(id=self.rows))
        with self.at_work(STAY=f"{PATIENCE_S}s", **FASTEST):
            until("the round to wait for what is under way", lambda: self.round()["state"] == "confirming")
            session = self.world.open_session()
            session.stdin.write(VERDICT)
            session.stdin.close()
            assert session.stdout.readline() == "looks\n"
            with self.delivering():
                told = session.stdout.read()
                assert session.wait() == 0
                done = self.round()
                self.world.sql(CHANGE.format(id=KEY))
        found = [(one["class"], one["state"], one["keys"]) for one in done["classes"]]
        assert (done["verdict"], found) == ("different", [("stale", "confirmed", [str(KEY)])]), done
        return {"s": float(told)}

    def damage(self) -> None:
        """A document of the index, in its version; what was found before is forgotten."""
        self.world.sql("DELETE FROM sluice.difference")
        document = self.world.search("GET", f"{INDEX}/_doc/{KEY}")
        path = f"{INDEX}/_doc/{KEY}?version={document['_version']}&version_type=external_gte"
        self.world.search("PUT", path, document["_source"] | {"title": "damaged"})


def until(words: str, is_so: Callable[[], bool]) -> None:
    """Waits for it."""
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        if time.monotonic() > deadline:
            raise Failure(f"waited {PATIENCE_S} s for {words}")
        time.sleep(0.1)


def benches(world: World, is_quick: bool) -> Iterator[tuple]:
    """A round at full speed; then at the default pace, beside writers; then what it comes to."""
    rows, seconds, rounds = (QUICK, QUICK_SECONDS, 1) if is_quick else (ROWS, SECONDS, 5)
    compared = Compared(world, rows)
    for contestant in (compared.read, compared.compare):  # or who comes first waits while Elasticsearch compiles itself
        contestant()
    contestants = {"limit: the same by COPY, then by _mget": compared.read, "sluice": compared.compare}
    yield "validate", f"Validate: {rows:,} documents of {SIZE:,} B, both passes of a round", contestants, rounds
    contestants = {"sluice": lambda: compared.write(seconds, False), "sluice, the scrub beside it": lambda: compared.write(seconds, True)}
    yield "validate writers", f"Validate: {RATE} updates a second of a tracked table", contestants, rounds
    yield "validate verdict", "Validate: from when all has arrived to the verdict on one document", {"sluice": compared.confirm}, rounds
