"""What capture costs the application: a write load without a trigger, with a hand-written outbox, and with `track`."""

import os
import re
import statistics
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import postgres
from world import DATABASE, World

CLIENTS, SECONDS, QUICK_SECONDS = 4, 3, 2
TABLES = """
SET ROLE sluice_owner;
CREATE SCHEMA demo;
CREATE TABLE demo.{name} (id bigint PRIMARY KEY, n bigint NOT NULL, body text NOT NULL);
INSERT INTO demo.{name} SELECT i, 0, left(repeat(md5(i::text), 8), 200) FROM generate_series(1, 100000) AS i;
"""
TRACKED = """
SELECT sluice.define_stream('tracked', source => 'demo.tracked', key => 'id', mapping => '{"properties": {"id": {}, "n": {}, "body": {}}}');
SELECT sluice.track('demo.tracked', stream => 'tracked', key => 'id');
"""
# The document travels in the outbox: the shape that most people write.
OUTBOX = """
CREATE TABLE demo.outbox (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, key text NOT NULL, op text NOT NULL, document jsonb,
    created_at timestamptz NOT NULL DEFAULT now(), published_at timestamptz);
CREATE INDEX ON demo.outbox (id) WHERE published_at IS NULL;
"""
BY_HAND = (
    OUTBOX
    + """
CREATE FUNCTION demo.note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO demo.outbox (key, op, document) VALUES (coalesce(NEW.id, OLD.id)::text, lower(TG_OP), {document});
    RETURN NULL;
END $$;
CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON demo.{table} FOR EACH ROW EXECUTE FUNCTION demo.note();
"""
)
SCRIPT = r"""
\set id random(1, 100000)
UPDATE demo.{name} SET n = n + 1 WHERE id = :id;
"""
KINDS = {"none": ("", "nothing"), "by_hand": (BY_HAND.format(table="by_hand", document="to_jsonb(NEW)"), "demo.outbox"), "tracked": (TRACKED, "sluice.outbox")}


def load(world: World, script: str, seconds: int, *options: str) -> tuple[float, list[int]]:
    """The script's transactions by pgbench, from several clients: how many a second, and the time of each in µs, sorted."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "script.sql")
        file.write_text(script)
        env = os.environ | postgres.connection(world.stack.database_url) | {"PGDATABASE": DATABASE}
        command = [Path(postgres.install(world.stack)) / "pgbench", "-n", "-M", "prepared", "-f", file, "-c", str(CLIENTS), "-T", str(seconds), "--log", *options]
        told = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, check=True).stdout
        times_us = sorted(int(line.split()[2]) for log in Path(folder).glob("pgbench_log.*") for line in log.open())
    return float(re.search(r"tps = ([\d.]+)", told)[1]), times_us


def percentiles(times_us: list[int]) -> dict[str, float]:
    """Of sorted times."""
    return {"p50 ms": statistics.median(times_us) / 1000, "p99 ms": times_us[len(times_us) * 99 // 100] / 1000}


class Writers:
    """A table of each kind, and the load that is put on it."""

    def __init__(self, world: World, seconds: int):
        self.world, self.seconds = world, seconds

    def write(self, name: str) -> dict[str, float]:
        """Updates by primary key, a transaction each."""
        more, log = KINDS[name]
        self.world.make_database()
        self.world.sql(TABLES.format(name=name) + more + f"RESET ROLE; VACUUM ANALYZE demo.{name}; CHECKPOINT;")
        rate, times_us = load(self.world, SCRIPT.format(name=name), self.seconds)
        measured = {"ms a write": CLIENTS / rate * 1000, "writes/s": rate, **percentiles(times_us)}
        if log != "nothing":
            [log_bytes] = self.world.of_tables(log, "sum(pg_total_relation_size(c.oid))")
            measured["log B/write"] = log_bytes / len(times_us)
        return measured


def benches(world: World, is_quick: bool) -> Iterator[tuple]:
    """Updates beside each other."""
    writers = Writers(world, QUICK_SECONDS if is_quick else SECONDS)
    contestants = {
        "hand-written outbox trigger": lambda: writers.write("by_hand"),
        "sluice.track": lambda: writers.write("tracked"),
        "no trigger": lambda: writers.write("none"),
    }
    yield "capture", f"Capture: updates of 200 B rows by {CLIENTS} clients", contestants, 1 if is_quick else 10
