"""Cold start: from exec to the first question for work, and the memory that is held by then."""

import socket
import subprocess
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import artifacts
import goals
from live import TOKENS
from peers import golang
from world import World, peak_mb

STARTS, QUICK = 30, 5
TARGETS = {"CLICKHOUSE_SECRET_ARN": "clickhouse", "KAFKA_BROKERS": "127.0.0.1:1", "SYNC_CONNECTIONS_URL": "http://127.0.0.1:1"} | TOKENS


def start(world: World, function: str | Path, **more: str) -> dict[str, float]:
    """One process, until it asks the Runtime API for work."""
    program = world.program(function)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        listener.settimeout(120)
        api = "127.0.0.1:{}".format(listener.getsockname()[1])
        env = world.environment(ADMIN_SECRET_ARN="admin", ORIGIN_URL="http://127.0.0.1/", AWS_LAMBDA_RUNTIME_API=api, **TARGETS, **more)
        began = time.perf_counter()
        process = subprocess.Popen([program], env=env, stdout=subprocess.DEVNULL)
        try:
            connection, _ = listener.accept()
            with connection:
                asked = connection.recv(4096)
                took = time.perf_counter() - began
                assert b"/invocation/next" in asked, asked
                return {"ms": took * 1000, "MB": peak_mb(process.pid), "zip MB": zip_mb(program)}
        finally:
            process.kill()
            process.wait()


@cache
def zip_mb(program: Path) -> float:
    """What is uploaded of it."""
    return len(artifacts.pack(program.read_bytes(), level=9)) / 1e6


def of_golang(world: World, name: str) -> dict[str, float]:
    """One that is written by hand."""
    return start(world, golang.install() / name, **golang.environment(world), STAY="0s")


def benches(world: World, is_quick: bool) -> Iterator[tuple]:
    """Each function."""
    contestants = {name: lambda name=name: start(world, name) for name in goals.FUNCTIONS}
    if not is_quick:
        contestants |= {f"{name} in Go {golang.VERSION}": lambda name=name: of_golang(world, name) for name in ("indexer", "trigger")}
    yield "cold start", "Cold start: exec to the first poll", contestants, QUICK if is_quick else STARTS
