"""Live sync: from commit until the client has the document, how many stay connected, and how fast a new client has its copy."""

import json
import resource
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import create_server
from tempfile import TemporaryDirectory

from console import Failure
from end_to_end import PATIENCE_S, one_process, percentiles
from world import World, peak_mb

BUCKET_OF = """
CREATE FUNCTION demo.bucket_of(claims jsonb) RETURNS SETOF text LANGUAGE sql STABLE SET search_path = pg_catalog AS $$ SELECT claims ->> 'sub' $$;
"""
NOTES = f"""
SET ROLE sluice_owner;
CREATE SCHEMA demo;
CREATE TABLE demo.note (id bigint PRIMARY KEY, person text NOT NULL, text text NOT NULL, body text NOT NULL);
{BUCKET_OF}
SELECT sluice.define_stream('note', source => 'demo.note', key => 'id');
SELECT sluice.track('demo.note', stream => 'note', key => 'id');
SELECT sluice.define_bucket('note', bucket => 'person', readers => 'demo.bucket_of');
"""
ROWS = "INSERT INTO demo.note SELECT n, {person}, '', left(repeat(md5(n::text), 7), 200) FROM generate_series({first}, {last}) AS n"
MANY = "big"  # the person who has the most
TOKENS = {"SYNC_ISSUER": "http://127.0.0.1:1", "SYNC_AUDIENCE": "bench"}  # whose issuer nobody asks
SECONDS_A_ROW = 10  # each client's row changes so often: a bucket is told of once a second at most


class Live:
    """`sluice run` with live sync and nothing else, whose tokens this bench signs."""

    def __init__(self, world: World, folder: Path, rows: int, persons: int):
        self.world, self.key, self.secret = world, folder / "key.der", folder / "accounts.json"
        make = ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]
        key = subprocess.run(make, check=True, capture_output=True, text=True).stdout
        self.secret.write_text(json.dumps({"private_key": key}))
        subprocess.run(["openssl", "pkcs8", "-topk8", "-nocrypt", "-outform", "DER", "-out", self.key], check=True, input=key, text=True)
        world.make_database()
        world.sql(NOTES + ROWS.format(person="'p' || n", first=1, last=persons))
        world.sql(ROWS.format(person=f"'{MANY}'", first=persons + 1, last=persons + rows))
        with self.running():  # all of it is stored once
            deadline = time.monotonic() + PATIENCE_S
            while (stored := int(world.sql("SELECT coalesce(sum(count), 0) FROM sluice.bucket"))) < rows + persons:
                if time.monotonic() > deadline:
                    raise Failure(f"{stored} of {rows + persons} documents were stored within {PATIENCE_S} s")
                time.sleep(0.1)

    @contextmanager
    def running(self) -> Iterator[tuple[str, subprocess.Popen]]:
        """Gives where it is asked."""
        with create_server(("127.0.0.1", 0)) as free:
            address = f"127.0.0.1:{free.getsockname()[1]}"
        url = f"http://{address}"
        told = {"SYNC_ADDRESS": address, "SYNC_ISSUER": url, "SYNC_AUDIENCE": "bench", "SYNC_AUTH": "builtin", "ACCOUNTS_SECRET_FILE": self.secret, "SYNC_CLIENTS": "20000"}
        with one_process(self.world, "sync", **told) as process:
            yield url, process

    def latency(self, clients: int, rate: int, seconds: int) -> dict[str, float]:
        """Of writes at this rate, each for one of the clients."""
        with self.running() as (url, process):
            self.world.run_bench("live", url, self.key, clients, clients // SECONDS_A_ROW, 2)  # connections are made, code is loaded
            measured = self.world.run_bench("live", url, self.key, clients, rate, seconds)
            return percentiles(measured) | {"writes/s": measured["rate"], "peak MB": peak_mb(process.pid)}

    def connections(self, clients: int) -> dict[str, float]:
        """That are open at the same time, all of them told once."""
        with self.running() as (url, process):
            command = [self.world.bench, "connections", url, self.key, str(clients)]
            with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as held:
                told = json.loads(held.stdout.readline())
                peak = peak_mb(process.pid)
                held.stdin.close()
            return {"peak MB": peak, "connections": told["connected"], "connected/s": told["connected"] / told["seconds"]}

    def copy(self, by: str) -> dict[str, float]:
        """All that one client has, from nothing."""
        with self.running() as (url, process):
            told = self.world.run_bench("pull", url, self.key, MANY, by)
            return {"documents/s": told["documents"] / told["seconds"], "documents": told["documents"], "peak MB": peak_mb(process.pid)}


def benches(world: World, is_quick: bool) -> Iterator[tuple]:
    """All in one process, `sluice run sync`, which drains, serves and pokes."""
    resource.setrlimit(resource.RLIMIT_NOFILE, [resource.getrlimit(resource.RLIMIT_NOFILE)[1]] * 2)
    rows, clients, connected, seconds = (10_000, 100, 500, 5) if is_quick else (200_000, 1000, 10_000, 60)
    with TemporaryDirectory() as folder:
        live = Live(world, Path(folder), rows, max(clients, 1000))
        rate, rounds = clients // SECONDS_A_ROW, 1 if is_quick else 3
        yield "live", f"Live sync: {rate} changes/s, {clients:,} clients, from commit until the client has it", {"sluice": lambda: live.latency(clients, rate, seconds)}, rounds
        yield "live connections", f"Live sync: {connected:,} clients that stay connected", {"sluice": lambda: live.connections(connected)}, 1
        copies = {"sluice": lambda: live.copy("snapshot"), "sluice, by pages of 1,000": lambda: live.copy("pages")}
        yield "live copy", f"Live sync: {rows:,} documents of 200 B for a client that has none", copies, rounds
