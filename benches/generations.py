"""Another generation of an index: how fast it is filled beside a resync of the same documents, what the others notice of that, and
how long it takes to change places."""

import subprocess
import time
from collections.abc import Iterator
from threading import Thread

from books import MAPPING
from console import Failure
from end_to_end import percentiles, pipeline
from replay import Delivered
from validate import FASTEST
from world import PREFIX, World

ROWS, QUICK = 1_000_000, 20_000
RATE, SECONDS = 20, 15  # of writes to another stream
OTHER = f"""
SET ROLE sluice_owner;
CREATE TABLE demo.leaflet (id bigint PRIMARY KEY, title text, body text);
SELECT sluice.define_stream('leaflets', source => 'demo.leaflet', key => 'id', mapping => '{MAPPING}');
SELECT sluice.track('demo.leaflet', stream => 'leaflets', key => 'id');
"""
WRITE = "INSERT INTO demo.leaflet VALUES ($1::bigint, 'Leaflet ' || $1, '')"
# All that it was begun with has arrived in it, as its keeper finds it out.
FILLED = """
SET statement_timeout = '600s';
DO $$
DECLARE
    building CONSTANT text := (SELECT g.stream FROM sluice.generation AS g WHERE g.state = 'building');
BEGIN
    LOOP
        PERFORM sluice.note_filled(building, false);
        COMMIT;
        EXIT WHEN sluice.has_filled(building);
        PERFORM pg_sleep(0.02);
    END LOOP;
END $$;
"""


class Indexes(Delivered):
    """Of books, beside which leaflets are written."""

    def __init__(self, world: World, rows: int):
        super().__init__(world, rows)
        world.sql(OTHER)
        world.migrate()
        self.leaflets = 1

    def run(self, *arguments: str, **more: str) -> float:
        """A command of the one process, as an operator types it; gives its seconds."""
        began, env = time.monotonic(), self.world.environment(**more)
        done = subprocess.run([self.world.sluice, *arguments], env=env, capture_output=True, text=True)
        if done.returncode:
            raise Failure(f"sluice {' '.join(arguments)}: {done.stdout.strip()} {done.stderr.strip()}")
        return time.monotonic() - began

    def change(self, action: str) -> float:
        """What an operator wants of the generations."""
        return self.run("reindex", "--stream", "books", "--action", action, DATABASE_SECRET_ARN="owner")

    def resync(self) -> dict[str, float]:
        done = super().resync()
        return {"documents/s": done["documents"] / done["s"]}

    def fill(self) -> dict[str, float]:
        """From when it is asked for until it has all; then it is given up."""
        with pipeline(self.world):
            before, began = self.sent(), time.monotonic()
            self.change("begin")
            self.world.sql(FILLED)
            seconds, sent = time.monotonic() - began, self.sent() - before
            self.change("abort")
        assert sent >= self.rows, f"{sent} documents instead of {self.rows}"
        return {"documents/s": self.rows / seconds}

    def write(self, seconds: int) -> dict[str, float]:
        """Leaflets at a steady rate."""
        with pipeline(self.world):
            return self.latency(seconds)

    def write_beside(self, seconds: int) -> dict[str, float]:
        """The same while another index of the books is filled."""
        with pipeline(self.world):
            filling = Thread(target=self.change, args=("begin",))
            filling.start()
            measured = self.latency(seconds)
            filling.join()
            self.change("abort")
        return measured

    def latency(self, seconds: int) -> dict[str, float]:
        measured = self.world.run_bench("latency", WRITE, f"{PREFIX}leaflets", self.leaflets, RATE, seconds)
        self.leaflets += RATE * seconds
        return percentiles(measured)

    def change_places(self) -> dict[str, float]:
        """Takes over, goes back and forward again; each from the command line to its end."""
        with pipeline(self.world):
            self.change("begin")
            self.world.sql(FILLED)
            self.world.migrate()
            self.run("validate", **FASTEST)
            took = {"takeover s": self.change("takeover"), "rollback s": self.change("rollback")}
            took["forward again s"] = self.change("rollback")
            live = self.world.sql("SELECT generation FROM sluice.stream WHERE name = 'books'").strip()
            assert self.change("abort") and int(live) > 1, f"generation {live} is live"
        return took


def benches(world: World, is_quick: bool) -> Iterator[tuple]:
    """Filling, what others notice, and places."""
    rows, rounds = (QUICK, 1) if is_quick else (ROWS, 3)
    indexes = Indexes(world, rows)
    contestants = {"a resync of all": indexes.resync, "sluice": indexes.fill}
    yield "generation", f"Generations: {rows:,} documents of 1,024 B, read anew for one", contestants, rounds
    seconds = 3 if is_quick else SECONDS
    contestants = {"sluice": lambda: indexes.write(seconds), "sluice, a generation being filled": lambda: indexes.write_beside(seconds)}
    yield "generation others", f"Generations: commit to found in another stream, {RATE} writes/s", contestants, rounds
    yield "generation places", "Generations: the command, from its start to its end", {"sluice": indexes.change_places}, rounds
