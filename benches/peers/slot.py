"""For those that read a replication slot, which must not outlive them: PostgreSQL would keep its log for it."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from console import tail
from peers import NotRun
from world import World

PATIENCE_S = 60


@contextmanager
def follow(world: World, slot: str, command: list, env: dict[str, str], folder: Path) -> Iterator[subprocess.Popen]:
    """Runs the one who makes and reads the slot; it is ready for work once it reads."""
    log = folder / "log"
    with log.open("w") as out:
        follower = subprocess.Popen(command, cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not world.sql(f"SELECT 1 FROM pg_replication_slots WHERE slot_name = '{slot}' AND active"):
            if follower.poll() is not None:
                raise NotRun(f"it ended with status {follower.returncode} while starting{tail(log)}")
            if time.monotonic() > deadline:
                raise NotRun(f"it did not read its slot within {PATIENCE_S} s{tail(log)}")
            time.sleep(0.1)
        yield follower
    finally:
        follower.kill()
        follower.wait()
        found = f"FROM pg_replication_slots WHERE slot_name = '{slot}'"
        world.sql(f"SELECT pg_terminate_backend(active_pid, 10000) {found} AND active")
        world.sql(f"SELECT pg_drop_replication_slot(slot_name) {found}")
