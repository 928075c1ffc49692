"""A transaction that stays open: what it does to the drain, and what is left in the log."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

from drain import Backlog
from world import World

ROWS, QUICK = 300_000, 20_000
SIZE = 1024
LEFT = "sum((pgstattuple(c.oid)).dead_tuple_count), sum(pg_total_relation_size(c.oid)) / 1e6"


@contextmanager
def held(world: World) -> Iterator[None]:
    """One that has written, and sees what there was when it began: no row that is deleted from now on may go."""
    session = world.open_session()
    try:
        session.stdin.write("BEGIN ISOLATION LEVEL REPEATABLE READ; UPDATE demo.author SET name = name WHERE id = 1; SELECT 'open';\n")
        session.stdin.flush()
        assert "open" in session.stdout.readline()
        yield
    finally:
        session.stdin.close()
        session.wait()


class Held(Backlog):
    """A backlog, drained while nothing else happens, or while a transaction is open."""

    def run(self, drain: Callable[[], dict[str, float]], table: str, is_held: bool) -> dict[str, float]:
        """The rate, and what is in the table after it that vacuum cannot take away."""
        with held(self.world) if is_held else nullcontext():
            rate = drain()["documents/s"]
            self.world.sql(f"VACUUM {table}")
            dead, mb = self.world.of_tables(table, LEFT)
            return {"documents/s": rate, "dead rows": dead, "table MB": mb}


def benches(world: World, is_quick: bool) -> Iterator[tuple]:
    """Both ways, each with and without."""
    rows = QUICK if is_quick else ROWS
    backlog = Held(world, SIZE, rows, "book")
    world.sql("CREATE EXTENSION pgstattuple")
    ways = {"sluice": (backlog.drain, "sluice.outbox"), "SKIP LOCKED in PostgreSQL alone": (backlog.skip_locked, "demo.classic")}
    contestants = {
        name + words: lambda way=way, is_held=is_held: backlog.run(*way, is_held)
        for name, way in ways.items()
        for words, is_held in {"": False, ", a transaction open": True}.items()
    }
    yield "held", f"An open transaction: {rows:,} documents of {SIZE:,} B are drained", contestants, 1 if is_quick else 5
