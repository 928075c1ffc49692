"""PGSync, in the mode that streams PostgreSQL's log: no slower than its daemon with triggers and Redis, and with less to run."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import elasticsearch
import postgres
from peers import Running, environment
from peers.slot import follow
from world import DATABASE, PREFIX, World

HERE = Path(__file__).parent
REQUIREMENTS = HERE / "requirements.txt"
VERSION = REQUIREMENTS.read_text().strip().partition("==")[2]
INDEX = f"{PREFIX}pgsync"
SLOT = f"{DATABASE}_{INDEX.replace('-', '')}"  # the name that PGSync gives it


@contextmanager
def pipeline(world: World) -> Iterator[Running]:
    """From the table to its index."""
    programs = environment.install("pgsync", REQUIREMENTS)
    world.make_books(INDEX)
    connection = postgres.connection(world.database_url)
    with tempfile.TemporaryDirectory() as folder:
        env = os.environ | {
            "PG_HOST": connection["PGHOST"], "PG_PORT": connection["PGPORT"],
            "PG_USER": connection["PGUSER"], "PG_PASSWORD": connection["PGPASSWORD"],
            "ELASTICSEARCH_URL": world.stack.elasticsearch_url,
            "ELASTICSEARCH_VERSION": elasticsearch.release(world.stack).version,
            "CHECKPOINT_PATH": folder,
            # It reads 5,000 changes, then waits until they are written: a fourth for each of its threads that write.
            "ELASTICSEARCH_CHUNK_SIZE": "1250",
            "ELASTICSEARCH_HTTP_COMPRESS": "false",  # which would cost, and on 127.0.0.1 not pay
        }  # fmt: skip
        command = [programs / "python", HERE / "daemon.py", "--config", HERE / "schema.json", "--wal", "--bootstrap"]
        with follow(world, SLOT, command, env, Path(folder)) as daemon:
            yield Running(INDEX, [daemon.pid])
