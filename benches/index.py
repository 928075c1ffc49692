"""Queue to index: how fast the indexer writes, beside what Elasticsearch could take at most."""

import time
from collections.abc import Iterator
from pathlib import Path

import elasticsearch
from drain import Backlog
from peers import golang, powertools
from world import INDEXERS, PREFIX, World, cpu_s, peak_mb

ROWS, QUICK = 600_000, 10_000
SIZE = 1024
EVENTS, RECORDS = 30_000, 5_000  # for those that are given a message an event, and write by ten or by one
LIMITS = [(1 << 20, 2), (5 << 20, 2), (5 << 20, 4)]  # bytes of a body, how many at a time


class Messages:
    """What the triggers send, sent anew for each turn."""

    def __init__(self, world: World, rows: int):
        self.world, self.rows = world, rows
        self.backlog = Backlog(world, SIZE, rows, "book")

    def index(self, **more: str) -> dict[str, float]:
        """By the indexer, until the queue is empty."""
        self.backlog.drain(keeps=True)
        self.world.clear_index()
        self.world.migrate()
        return self.written("indexer", self.rows, **more)

    def checked(self) -> dict[str, float]:
        """The same with a look at whether all of it is there."""
        measured = self.index()
        self.check(f"{PREFIX}books", self.rows)
        return measured

    def by_hand(self, program: Path, rows: int, **more: str) -> dict[str, float]:
        """By a function that is given a message an event."""
        self.backlog.drain_by_hand(rows, keeps=True)
        self.world.clear_index()
        self.world.make_index(golang.INDEX)
        measured = self.written(program, rows, **golang.environment(self.world), **more)
        self.check(golang.INDEX, rows)
        return measured

    def written(self, function: str | Path, rows: int, **more: str) -> dict[str, float]:
        """Until all of so many documents have left the queue."""
        indexers = [self.world.start(function, number, **more) for number in range(1, INDEXERS + 1)]
        try:
            before, began = self.world.cpu_of(elasticsearch), time.monotonic()
            self.world.ask("deliver", {"functions": list(range(1, INDEXERS + 1)), "until_empty": True})
            seconds = time.monotonic() - began
            function = sum(cpu_s(indexer.pid) for indexer in indexers)
            million = 1e6 / rows
            return {"documents/s": rows / seconds, "documents": rows, "CPU s/million": function * million,
                    "Elasticsearch's": (self.world.cpu_of(elasticsearch) - before) * million,
                    "peak MB": max(peak_mb(indexer.pid) for indexer in indexers)}  # fmt: skip
        finally:
            for indexer in indexers:
                indexer.kill()
                indexer.wait()

    def check(self, index: str, rows: int) -> None:
        """All of them are there."""
        self.world.search("POST", f"{index}/_refresh")
        count = self.world.search("GET", f"{index}/_count")["count"]
        assert count == rows, f"{count} of {rows} are in the index"

    def limit(self) -> dict[str, float]:
        """Prepared bodies: the best of several sizes and concurrencies."""
        rates = []
        for body_bytes, concurrency in LIMITS:
            self.world.clear_index()
            self.world.migrate()
            query = "SELECT id::text, row_to_json(d)::text FROM (SELECT id, title, body FROM demo.book) AS d"
            done = self.world.run_bench("bulk", query, f"{PREFIX}books", body_bytes, concurrency)
            rates.append(done["documents"] / done["seconds"])
        return {"documents/s": max(rates)}


def benches(world: World, is_quick: bool) -> Iterator[tuple]:
    """Against real Elasticsearch, and one that answers at once."""
    rows = QUICK if is_quick else ROWS
    messages = Messages(world, rows)
    instant = {"ELASTICSEARCH_SECRET_ARN": "instant"}
    contestants = {
        "limit: _bulk of prepared bodies": messages.limit,
        "sluice": messages.checked,
        "sluice, into an endpoint that answers at once": lambda: messages.index(**instant),
    }
    if not is_quick:
        contestants |= {
            f"indexer in Go {golang.VERSION}, a message an event": lambda: messages.by_hand(golang.install() / "indexer", EVENTS),
            f"handler in Python with Powertools {powertools.VERSION}, a message an event": lambda: messages.by_hand(
                powertools.BOOTSTRAP, RECORDS, PYTHON=str(powertools.install())
            ),
        }
    yield "index", f"Index: {rows:,} documents of {SIZE:,} B, {INDEXERS} indexers", contestants, 1 if is_quick else 5
