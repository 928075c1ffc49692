"""Commit to found by id, through the functions' own binaries and through one process: at steady rates, and a burst until the last is
in."""

import itertools
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import elasticsearch
import postgres
from books import BOOKS, ROWS
from drain import TRACKED
from peers import NotRun, Running, debezium, golang, pgsync, powertools
from world import INDEXERS, PREFIX, World, cpu_s, peak_mb

DIRECT, QUEUED = "sluice run", "sluice run, with a queue"

RATES, SECONDS = (10, 100, 1000), 15
STEPS, TRY_SECONDS = (1000, 1500, 2000, 3000, 4000, 6000, 8000, 12_000), 6
BURST, QUICK_BURST = 1_000_000, 5_000
SIZE = 1024
PATIENCE_S = 300
# Each with as many documents as it brings in some 20 s.
PEERS = {
    f"Debezium {debezium.VERSION}": (debezium.pipeline, 200_000),
    f"PGSync {pgsync.VERSION}": (pgsync.pipeline, 40_000),
    f"outbox worker in Go {golang.VERSION}": (golang.worker, 200_000),
    f"Lambda functions in Go {golang.VERSION}, a message an event": (golang.functions, 30_000),
    f"the same with Powertools {powertools.VERSION} as the indexer": (powertools.functions, 5_000),
}
WRITE = "INSERT INTO demo.book VALUES ($1::bigint, 1, 'Book ' || $1, left(repeat(md5($1::text), 40), 1000))"


@contextmanager
def pipeline(world: World) -> Iterator[list[int]]:
    """The functions at work, as EventBridge and an event source mapping have them; gives their pids."""
    world.ask("reset", {"keeps": True})
    trigger = world.start("trigger", 0, DRAIN="stay", STAY="5s")
    with world.at_work(trigger, [world.start("indexer", number) for number in range(1, INDEXERS + 1)]) as pids:
        yield pids


@contextmanager
def sluice(world: World) -> Iterator[Running]:
    """The same in a database of its own."""
    make_stream(world)
    with pipeline(world) as pids:
        yield Running(f"{PREFIX}books", pids)


@contextmanager
def direct(world: World) -> Iterator[Running]:
    """One process, from the log straight into the index."""
    make_stream(world)
    with one_process(world, "elasticsearch") as process:
        yield Running(f"{PREFIX}books", [process.pid])


@contextmanager
def queued(world: World) -> Iterator[Running]:
    """One process that is trigger and indexer."""
    make_stream(world)
    world.ask("reset", {"keeps": True})
    try:
        with one_process(world, "trigger", "indexer") as process:
            yield Running(f"{PREFIX}books", [process.pid])
    finally:
        world.ask("reset", {"keeps": False})


@contextmanager
def one_process(world: World, *parts: str, **more: str) -> Iterator[subprocess.Popen]:
    """`sluice run` with these parts."""
    env = world.environment(HEALTH_ADDRESS="127.0.0.1:0", **more)
    if "trigger" not in parts:
        del env["QUEUE_URL"], env["DEAD_LETTER_QUEUE_URL"]
    process = subprocess.Popen([world.sluice, "run", *parts], env=env, stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def make_stream(world: World) -> None:
    """Books, in a database of their own."""
    world.make_database()
    world.sql(BOOKS + TRACKED.format(source="book"))
    world.migrate()


def start(world: World) -> dict[str, float]:
    """From exec until a change that was there is found."""
    make_stream(world)
    world.sql(ROWS.format(bytes=SIZE, rows=1))
    began = time.monotonic()
    with one_process(world, "elasticsearch") as process:
        while not world.search("POST", f"{PREFIX}books/_mget?_source=false", {"ids": ["1"]})["docs"][0].get("found"):
            if time.monotonic() - began > PATIENCE_S:
                raise NotRun(f"the change was not found {PATIENCE_S} s after the start")
            time.sleep(0.002)
        return {"ms": (time.monotonic() - began) * 1000, "MB": peak_mb(process.pid)}


def steady(world: World, contestant: Callable, rate: int, seconds: int) -> dict[str, float]:
    """A transaction each, at this rate."""
    with contestant(world) as running:
        world.run_bench("latency", WRITE, running.index, 1, 10, 2)  # connections are made, code is loaded
        measured = world.run_bench("latency", WRITE, running.index, 1000, rate, seconds)
    return percentiles(measured) | {"writes/s": measured["rate"]}


def percentiles(measured: dict[str, float]) -> dict[str, float]:
    return {f"{name} ms": measured[name] for name in ("p50", "p95", "p99", "max")}


def highest(world: World) -> dict[str, float]:
    """The highest rate that holds for a minute: all is written in time, and p99 stays below a second."""
    first = 1

    def holds(rate: int, seconds: int) -> dict[str, float] | None:
        nonlocal first
        measured = world.run_bench("latency", WRITE, running.index, first, rate, seconds)
        first += rate * seconds
        return measured if measured["rate"] > 0.98 * rate and measured["p99"] < 1000 else None

    with sluice(world) as running:
        tried = list(itertools.takewhile(lambda rate: holds(rate, TRY_SECONDS), STEPS))
        for rate in reversed(tried):
            if measured := holds(rate, 60):
                return {"writes/s": measured["rate"]} | percentiles(measured)
    raise NotRun(f"{STEPS[0]} writes a second did not hold")


def burst(world: World, contestant: Callable, rows: int) -> dict[str, float]:
    """One transaction with all of them, until the last is in the index."""
    with contestant(world) as running:
        before = [world.cpu_of(postgres), world.cpu_of(elasticsearch), sum(map(cpu_s, running.pids))]
        world.sql(ROWS.format(bytes=SIZE, rows=rows))
        committed = time.monotonic()
        while True:
            world.search("POST", f"{running.index}/_refresh")
            if world.search("GET", f"{running.index}/_count")["count"] >= rows:
                break
            if time.monotonic() - committed > PATIENCE_S:
                raise NotRun(f"{rows:,} documents were not in the index {PATIENCE_S} s after their commit")
            time.sleep(0.2)
        took = time.monotonic() - committed
        after = [world.cpu_of(postgres), world.cpu_of(elasticsearch), sum(map(cpu_s, running.pids))]
        database, search, own = ((now - then) * 1e6 / rows for then, now in zip(before, after, strict=True))
        return {"documents/s": rows / took, "documents": rows, "CPU s/million": own, "PostgreSQL's": database, "Elasticsearch's": search,
                "peak MB": sum(map(peak_mb, running.pids))}  # fmt: skip


def benches(world: World, is_quick: bool) -> Iterator[tuple]:
    """Rates, then the burst."""
    seconds = 3 if is_quick else SECONDS
    rates = {f"{rate}/s": lambda rate=rate: steady(world, sluice, rate, seconds) for rate in (RATES[:2] if is_quick else RATES)}
    rates[f"{DIRECT}, 100/s"] = lambda: steady(world, direct, 100, seconds)
    yield "start", "One process: exec to the first change found", {DIRECT: lambda: start(world)}, 1 if is_quick else 5
    yield "latency", "End to end: commit to found by id", rates, 1 if is_quick else 3
    if not is_quick:
        yield "highest", "End to end: the highest rate that holds for a minute", {"sluice": lambda: highest(world)}, 1
    rows = QUICK_BURST if is_quick else BURST
    burst(world, sluice, rows // 10)  # or who comes first waits while Elasticsearch compiles itself
    own = {"sluice": sluice, DIRECT: direct, QUEUED: queued}
    contestants = {name: lambda pipeline=pipeline: burst(world, pipeline, rows) for name, pipeline in own.items()}
    if not is_quick:
        contestants |= {name: lambda pipeline=pipeline, some=some: burst(world, pipeline, some) for name, (pipeline, some) in PEERS.items()}
    yield "burst", f"End to end: a burst of {rows:,} documents of {SIZE:,} B", contestants, 1 if is_quick else 3
