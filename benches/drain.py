"""Log to queue: how fast the trigger drains a backlog, beside what PostgreSQL could give at most."""

import time
from collections.abc import Iterator
from pathlib import Path

import postgres
from books import BOOKS, MAPPING, ROWS
from peers import golang
from world import World, cpu_s, peak_mb

# Bytes of a document → documents of the backlog: what takes some seconds.
SIZES = {200: 1_000_000, 1024: 1_000_000, 10_240: 100_000}
QUICK = {1024: 20_000}
EVENTS = 100_000  # of the outbox, a message each
TRACKED = f"""
SELECT sluice.define_stream('books', source => 'demo.{{source}}', key => 'id', mapping => '{MAPPING.replace("{", "{{").replace("}", "}}")}');
SELECT sluice.track('demo.book', stream => 'books', key => 'id');
"""
REST = "VACUUM ANALYZE demo.book; VACUUM ANALYZE sluice.outbox; CHECKPOINT;"
DOCUMENTS = "SELECT row_to_json(d) FROM (SELECT id, title, body FROM demo.{source}) AS d"
CLASSIC = """
SET ROLE sluice_owner;
DROP TABLE IF EXISTS demo.classic;
CREATE TABLE demo.classic (id bigint PRIMARY KEY, document json NOT NULL);
INSERT INTO demo.classic SELECT id, row_to_json(d) FROM (SELECT id, title, body FROM demo.book) AS d;
RESET ROLE; VACUUM ANALYZE demo.classic; CHECKPOINT;
"""
SKIP_LOCKED = """
DO $$
DECLARE
    taken json[];
BEGIN
    LOOP
        WITH gone AS (
            DELETE FROM demo.classic WHERE id IN (SELECT id FROM demo.classic ORDER BY id FOR UPDATE SKIP LOCKED LIMIT 1000) RETURNING document)
        SELECT array_agg(document) INTO taken FROM gone;
        COMMIT;
        EXIT WHEN taken IS NULL;
    END LOOP;
END $$;
"""


class Backlog:
    """Documents that are all to be drained, again and again."""

    def __init__(self, world: World, size: int, rows: int, source: str):
        self.world, self.size, self.rows, self.source = world, size, rows, source
        world.make_database()
        self.define()
        self.seen = world.sql("SELECT sluice.snapshot()").strip()
        world.sql(ROWS.format(bytes=size, rows=rows))
        self.last = world.sql("SELECT max(id) FROM sluice.outbox").strip()
        world.sql(REST)

    def define(self) -> None:
        """The table and its stream."""
        self.world.sql(BOOKS + TRACKED.format(source=self.source))
        self.world.migrate()

    def rewind(self, subscription: str = "elasticsearch") -> None:
        """The subscription's position as it was before the first of them."""
        # A new index since then would have all of them read a second time.
        self.world.sql(f"DELETE FROM sluice.outbox WHERE id > {self.last}")
        self.world.sql(f"UPDATE sluice.subscription SET seen = '{self.seen}', until = NULL, first_id = NULL, after_id = 0 WHERE name = '{subscription}'")

    def drain(self, keeps: bool = False) -> dict[str, float]:
        """By the trigger, until all of it is sent."""
        self.rewind()
        return self.sent("trigger", self.rows, keeps, DRAIN="once", STAY="70s")

    def drain_by_hand(self, rows: int, keeps: bool = False) -> dict[str, float]:
        """The usual outbox with the first of the documents in it, sent a message an event."""
        self.world.sql(golang.BACKLOG.format(rows=rows))
        return self.sent(golang.install() / "trigger", rows, keeps, **golang.environment(self.world), STAY="0s")

    def sent(self, trigger: str | Path, rows: int, keeps: bool, **more: str) -> dict[str, float]:
        """By a trigger, until so many are sent."""
        self.world.ask("reset", {"keeps": keeps})
        trigger = self.world.start(trigger, 0, **more)
        try:
            before, began = self.world.cpu_of(postgres), time.monotonic()
            while self.world.ask("counted")["queue"]["changes"] < rows:
                self.world.ask("invoke/0", {})
            seconds = time.monotonic() - began
            counted = self.world.ask("counted")["queue"]
            assert counted["changes"] == rows, counted
            function, database = cpu_s(trigger.pid), self.world.cpu_of(postgres) - before
            million = 1e6 / rows
            return {"documents/s": rows / seconds, "MB/s": counted["bytes"] / seconds / 1e6, "CPU s/million": function * million,
                    "PostgreSQL's": database * million, "peak MB": peak_mb(trigger.pid)}  # fmt: skip
        finally:
            trigger.kill()
            trigger.wait()

    def copy(self) -> dict[str, float]:
        """The same documents in COPY, through the same driver."""
        copied = self.world.run_bench("copy", DOCUMENTS.format(source=self.source))
        assert copied["rows"] == self.rows, copied
        return {"documents/s": self.rows / copied["seconds"], "MB/s": copied["bytes"] / copied["seconds"] / 1e6}

    def skip_locked(self) -> dict[str, float]:
        """The usual outbox in PostgreSQL alone: taken, deleted and committed by the thousand, and sent nowhere."""
        self.world.sql(CLASSIC)
        began = time.monotonic()
        self.world.sql(SKIP_LOCKED)
        return {"documents/s": self.rows / (time.monotonic() - began)}


def benches(world: World, is_quick: bool) -> Iterator[tuple]:
    """One for each shape of documents."""
    for size, rows in (QUICK if is_quick else SIZES).items():
        for source, words in {"book": "a table", "joined": "a view that joins"}.items():
            backlog = Backlog(world, size, rows, source)
            contestants = {"limit: COPY of the same": backlog.copy, "sluice": backlog.drain}
            if source == "book":
                contestants["SKIP LOCKED in PostgreSQL alone"] = backlog.skip_locked
                if size == 1024 and not is_quick:
                    name = f"hand-written trigger, a message an event, Go {golang.VERSION}"
                    contestants[name] = lambda backlog=backlog: backlog.drain_by_hand(EVENTS)
            yield f"drain {size} B {source}", f"Drain: {rows:,} documents of {size:,} B, of {words}", contestants, 1 if is_quick else 3
