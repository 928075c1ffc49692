"""What people write by hand: an outbox whose trigger notes whole documents, and Go that brings them to the index: a worker
that is always on, or two Lambda functions with a message an event between them."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from capture import BY_HAND, OUTBOX
from console import Failure, run
from layout import CACHE
from peers import NotRun, Running
from world import INDEXERS, PREFIX, World

HERE = Path(__file__).parent
VERSION = re.search(r"^go (\S+)", (HERE / "go.mod").read_text(), re.MULTILINE)[1]
INDEX = f"{PREFIX}by-hand"
NOTED = BY_HAND.format(table="book", document="to_jsonb(NEW) - 'author'")
BACKLOG = f"""
SET ROLE sluice_owner;
DROP TABLE IF EXISTS demo.outbox;
{OUTBOX}
INSERT INTO demo.outbox (key, op, document)
    SELECT id::text, 'insert', to_jsonb(b) - 'author' FROM demo.book AS b WHERE id <= {{rows}} ORDER BY id;
RESET ROLE; VACUUM ANALYZE demo.outbox; CHECKPOINT;
"""


@cache
def install() -> Path:
    """The folder of the programs; Go itself knows what has to be built anew."""
    go = shutil.which("go", path=f"{os.environ.get('PATH', os.defpath)}:/usr/local/go/bin")
    if not go:
        raise NotRun("the machine has no Go")
    folder = CACHE / "peers" / "golang"
    folder.mkdir(parents=True, exist_ok=True)
    command = [go, "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-tags=lambda.norpc", f"-o={folder}/", "./worker", "./trigger", "./indexer"]
    try:
        run("golang", "building (4 minutes of CPU the first time)", command, folder / "build.log", cwd=HERE, env=os.environ | {"CGO_ENABLED": "0"})
    except Failure as failure:
        raise NotRun(str(failure)) from failure
    return folder


def environment(world: World) -> dict[str, str]:
    """Where everything is: theirs have no secrets to read."""
    return {"DATABASE_URL": f"{world.database_url}?sslmode=disable", "ELASTICSEARCH_URL": world.stack.elasticsearch_url, "INDEX": INDEX}


def prepare(world: World) -> None:
    """The table, its trigger and the index."""
    world.make_books(INDEX)
    world.sql(f"SET ROLE sluice_owner; {NOTED}")


@contextmanager
def worker(world: World) -> Iterator[Running]:
    """Always on, from the outbox into the index."""
    program = install() / "worker"
    prepare(world)
    process = subprocess.Popen([program], env=environment(world))
    try:
        yield Running(INDEX, [process.pid])
    finally:
        process.kill()
        process.wait()


@contextmanager
def functions(world: World, indexer: Path | None = None, **more: str) -> Iterator[Running]:
    """The trigger and the indexers, its own or another's."""
    programs = install()
    prepare(world)
    world.ask("reset", {"keeps": True})
    env = environment(world) | more
    trigger = world.start(programs / "trigger", 0, **env, STAY="5s")
    indexers = [world.start(indexer or programs / "indexer", number, **env) for number in range(1, INDEXERS + 1)]
    with world.at_work(trigger, indexers) as pids:
        yield Running(INDEX, pids)
