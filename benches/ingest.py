"""Origin to table: how fast the ingest stores profiles, beside what PostgreSQL takes of the same rows at most."""

import threading
import time
from collections.abc import Iterator

import postgres
from world import PROFILES, World, cpu_s, peak_mb

QUICK = 10_000
WRITERS = 2  # the template's
ANEW = """
TRUNCATE profiles.users, sluice.ingest_rejects, sluice.ingest_stats, sluice.ingest_position;
DELETE FROM sluice.outbox;
VACUUM ANALYZE profiles.users; VACUUM sluice.outbox; CHECKPOINT;
"""
INSERT = """
SET ROLE sluice_owner;
INSERT INTO profiles.users SELECT * FROM public.same;
"""
DONE = "SELECT extract(epoch FROM last_success_at) FROM sluice.ingest_position WHERE last_success_at IS NOT NULL"


class Profiles:
    """Profiles of an origin, each of which changed once since the position."""

    def __init__(self, world: World, rows: int):
        self.world, self.rows = world, rows
        world.make_database(INGEST="true")
        self.ingest()
        world.sql("CREATE TABLE public.same AS TABLE profiles.users; GRANT SELECT ON public.same TO sluice_owner")

    def ingest(self) -> dict[str, float]:
        """By the ingest, until all of them are stored."""
        self.world.sql(ANEW)
        url = f"127.0.0.1:{self.world.ports['origin']}/users/changes"
        self.world.sql(f"INSERT INTO sluice.ingest_position (source, origin, since) VALUES ('profiles', '{url}', now() - interval '{self.rows} s')")
        function = self.world.start("ingest", 0, ORIGIN_URL=f"http://{url}", STAY="70s", SYNC_INTERVAL="1h", DB_WRITERS=str(WRITERS))
        try:
            before = self.world.cpu_of(postgres)
            began = float(self.world.sql("SELECT extract(epoch FROM clock_timestamp())"))
            # It stays for longer than a round; by then it is gone.
            threading.Thread(target=self.invoke, daemon=True).start()
            while not (done := self.world.sql(DONE).strip()):
                time.sleep(0.1)
            seconds = float(done) - began
            stored = int(self.world.sql("SELECT count(*) FROM profiles.users"))
            assert self.rows - stored < 60, f"{stored} of {self.rows} are stored"  # one changes each second
            million = 1e6 / stored
            return {"profiles/s": stored / seconds, "CPU s/million": cpu_s(function.pid) * million,
                    "PostgreSQL's": (self.world.cpu_of(postgres) - before) * million, "peak MB": peak_mb(function.pid)}  # fmt: skip
        finally:
            function.kill()
            function.wait()

    def invoke(self) -> None:
        """One invocation, whose answer nobody waits for."""
        try:
            self.world.ask("invoke/0", {})
        except OSError:
            pass

    def insert(self) -> dict[str, float]:
        """The same rows into the same table, with its constraints and its stream, by one statement from another table."""
        self.world.sql(ANEW)
        before, began = self.world.cpu_of(postgres), time.monotonic()
        self.world.sql(INSERT)
        seconds = time.monotonic() - began
        stored = int(self.world.sql("SELECT count(*) FROM profiles.users"))
        return {"profiles/s": stored / seconds, "PostgreSQL's": (self.world.cpu_of(postgres) - before) * 1e6 / stored}


def benches(world: World, is_quick: bool) -> Iterator[tuple]:
    """One table, filled anew each time."""
    rows = QUICK if is_quick else PROFILES
    profiles = Profiles(world, rows)
    contestants = {"limit: one INSERT of the same rows": profiles.insert, "sluice": profiles.ingest}
    yield "ingest", f"Ingest: {rows:,} profiles of an origin, {WRITERS} writers", contestants, 1 if is_quick else 3
