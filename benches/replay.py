"""A replay from a checkpoint, beside a resync: how much sooner a target has what changed than it has all."""

import time
from collections.abc import Iterator

from drain import Backlog
from end_to_end import pipeline
from validate import until
from world import World

ROWS, QUICK = 1_000_000, 20_000
SIZE = 1024
ONE_OF = 100  # documents has changed since the checkpoint
CHANGE = f"UPDATE demo.book SET title = title || '.' WHERE id % {ONE_OF} = 0"
ARRIVED = """
SET statement_timeout = '600s';
DO $$
DECLARE
    wanted CONSTANT pg_snapshot := sluice.snapshot();
BEGIN
    LOOP
        EXIT WHEN sluice.settled('elasticsearch', wanted);
        PERFORM pg_sleep(0.02);
    END LOOP;
END $$;
"""
REACHED = "SELECT sluice.keep_checkpoints(); SELECT count(at) FROM sluice.checkpoint WHERE name = '{name}' AND subscription = 'elasticsearch'"


class Delivered:
    """Documents that are in the index, and are brought there again."""

    def __init__(self, world: World, rows: int):
        self.world, self.rows, self.checkpoints = world, rows, 0
        Backlog(world, SIZE, rows, "book")
        with pipeline(world):
            world.sql(ARRIVED)

    def again(self, ask: str, documents: int) -> dict[str, float]:
        """From when it is asked for until all of it has arrived."""
        before, began = self.sent(), time.monotonic()
        self.world.sql(f"{ask};{ARRIVED}")
        seconds = time.monotonic() - began
        assert self.sent() - before == documents, f"{self.sent() - before} documents instead of {documents}"
        return {"s": seconds, "documents": documents}

    def sent(self) -> int:
        """By the trigger since it was started."""
        return self.world.ask("counted")["queue"]["changes"]

    def resync(self) -> dict[str, float]:
        """All of them."""
        with pipeline(self.world):
            return self.again("SELECT sluice.resync('books')", self.rows)

    def replay(self) -> dict[str, float]:
        """Those that have changed since a checkpoint, which is made anew: what a resync logs has changed, too."""
        self.checkpoints += 1
        name = f"checkpoint-{self.checkpoints}"
        with pipeline(self.world):
            self.world.sql(f"SELECT sluice.checkpoint('{name}')")
            until("the checkpoint", lambda: self.world.sql(REACHED.format(name=name)).split() == ["1"])
            self.world.sql(CHANGE)
            self.world.sql(ARRIVED)
            return self.again(f"SELECT sluice.replay('elasticsearch', '{name}')", self.rows // ONE_OF)


def benches(world: World, is_quick: bool) -> Iterator[tuple]:
    """Both deliver documents that are in the index already, each by a newer version."""
    rows, rounds = (QUICK, 1) if is_quick else (ROWS, 3)
    delivered = Delivered(world, rows)
    contestants = {"a resync of all": delivered.resync, "sluice": delivered.replay}
    yield "replay", f"Replay: one of {ONE_OF} of {rows:,} documents of {SIZE:,} B", contestants, rounds
