"""What the benches are to show, held against what one run measured."""

import statistics
from collections.abc import Callable
from itertools import zip_longest
from operator import ge, gt, le, lt

Round = dict[str, dict[str, float]]  # contestant → measure: side by side, so what the machine had for them is alike
Rounds = dict[str, Round]  # of each bench one
SIGNS = {ge: "≥", gt: ">", le: "≤", lt: "<"}
PLAIN = "drain 1024 B book"
DRAINED = ("drain 200 B book", PLAIN, "drain 10240 B book", "drain 1024 B joined")
BESIDE = "sluice, ClickHouse's and Kafka's beside it"
LOOPS = "sluice, two busy loops beside it"
APART = "sluice, on half of the cores"
APART_BESIDE = f"{APART}, ClickHouse's and Kafka's on the others"
APART_SYNC = f"{APART}, live sync's on the others"
FUNCTIONS = ("indexer", "trigger", "admin", "migrate", "ingest", "origin", "validate", "clickhouse", "kafka", "sync")


def value(bench: str, contestant: str, measure: str) -> Callable[[Rounds], float]:
    return lambda rounds: rounds[bench][contestant][measure]


def ratio(bench: str, contestant: str, other: str, measure: str, other_measure: str = "") -> Callable[[Rounds], float]:
    """Against the contestant whose name begins so: a peer's ends with its version."""

    def compare(rounds: Rounds) -> float:
        names = [name for name in rounds[bench] if name.startswith(other)]
        return rounds[bench][contestant][measure] / rounds[bench][names[0]][other_measure or measure]

    return compare


def more(bench: str, contestant: str, other: str, measure: str) -> Callable[[Rounds], float]:
    return lambda rounds: rounds[bench][contestant][measure] - rounds[bench][other][measure]


def beside_peers(measure: str, best: Callable, is_one: Callable[[str], bool]) -> Callable[[Rounds], float]:
    """The burst's, against the best of those peers."""

    def compare(rounds: Rounds) -> float:
        burst = rounds["burst"]
        return burst["sluice"][measure] / best(measured[measure] for name, measured in burst.items() if not name.startswith("sluice") and is_one(name))

    return compare


def largest(measure: str, *places: tuple[str, str]) -> Callable[[Rounds], float]:
    return lambda rounds: max(rounds[bench][contestant][measure] for bench, contestant in places)


GOALS = [
    ("drain of 1 KB, of what COPY gives", ratio(PLAIN, "sluice", "limit: COPY of the same", "documents/s"), ge, 0.5),
    ("drain of 1 KB, against SKIP LOCKED in PostgreSQL alone", ratio(PLAIN, "sluice", "SKIP LOCKED in PostgreSQL alone", "documents/s"), ge, 2),
    ("drain of 1 KB, against a message an event", ratio(PLAIN, "sluice", "hand-written trigger, a message an event", "documents/s"), ge, 10),
    ("drain with a transaction open, against without", ratio("held", "sluice, a transaction open", "sluice", "documents/s"), ge, 0.9),
    ("dead rows in the log after it", value("held", "sluice, a transaction open", "dead rows"), le, 0),
    ("index, of what Elasticsearch takes", ratio("index", "sluice", "limit: _bulk of prepared bodies", "documents/s"), ge, 0.9),
    ("index, CPU of that which Elasticsearch uses", ratio("index", "sluice", "sluice", "CPU s/million", "Elasticsearch's"), le, 0.15),
    ("ingest, profiles/s into PostgreSQL", value("ingest", "sluice", "profiles/s"), ge, 10_000),
    ("ingest, of what one INSERT of the same rows gives", ratio("ingest", "sluice", "limit: one INSERT of the same rows", "profiles/s"), ge, 0.5),
    ("validate, documents/s through both passes", value("validate", "sluice", "documents/s"), ge, 15_000),
    ("validate, p99 of writers beside the scrub, against without", ratio("validate writers", "sluice, the scrub beside it", "sluice", "p99 ms"), le, 1.05),
    ("replay of one of a hundred documents, against a resync of all", ratio("replay", "a resync of all", "sluice", "s"), ge, 50),
    ("filling a generation, documents/s against a resync's", ratio("generation", "sluice", "a resync of all", "documents/s"), ge, 0.8),
    ("what another stream notices of it, p99 in ms more", more("generation others", "sluice, a generation being filled", "sluice", "p99 ms"), le, 1000),
    ("takeover, s", value("generation places", "sluice", "takeover s"), le, 1),
    ("rollback, s", value("generation places", "sluice", "rollback s"), le, 1),
    ("validate, from all arrived to the verdict, s", value("validate verdict", "sluice", "s"), le, 2),
    ("burst, documents/s against PGSync's", beside_peers("documents/s", max, lambda name: "PGSync" in name), ge, 5),
    ("burst, documents/s against the best other peer's", beside_peers("documents/s", max, lambda name: "PGSync" not in name), ge, 2),
    ("burst, memory against the least of the peers'", beside_peers("peak MB", min, lambda _: True), lt, 1),
    ("latency at 100/s, p50 in ms", value("latency", "100/s", "p50 ms"), le, 100),
    ("latency at 100/s, p99 in ms", value("latency", "100/s", "p99 ms"), le, 250),
    ("one process: burst without a queue, against with one", ratio("burst", "sluice run", "sluice run, with a queue", "documents/s"), ge, 1.1),
    ("one process: latency at 100/s, p50 in ms", value("latency", "sluice run, 100/s", "p50 ms"), le, 30),
    ("one process: start to first change, ms", value("start", "sluice run", "ms"), le, 1000),
    ("ClickHouse, rows/s of 200 B", value("clickhouse", "sluice", "rows/s"), ge, 80_000),
    ("ClickHouse, parts a second and table, of a backlog", value("clickhouse", "sluice", "parts/s"), le, 1),
    ("ClickHouse, parts a second and table, of single writes", value("clickhouse parts", "sluice", "parts/s"), le, 1),
    ("Kafka, messages/s of 200 B, acks=all, in transactions", value("kafka", "sluice", "messages/s"), ge, 50_000),
    ("drain while both direct targets drain, against alone", ratio("beside", BESIDE, "sluice", "documents/s"), ge, 0.95),
    ("the same where each has cores of its own", ratio("beside", APART_BESIDE, APART, "documents/s"), ge, 0.95),
    ("drain while live sync drains, on cores of its own", ratio("beside", APART_SYNC, APART, "documents/s"), ge, 0.95),
    ("live sync at 100 changes/s and 1,000 clients, from commit to the client, p50 in ms", value("live", "sluice", "p50 ms"), le, 150),
    ("the same, p99 in ms", value("live", "sluice", "p99 ms"), le, 400),
    ("peak memory with 10,000 clients connected, MB", value("live connections", "sluice", "peak MB"), le, 256),
    ("a new client's copy, documents/s", value("live copy", "sluice", "documents/s"), ge, 20_000),
    ("capture, time of a write against a hand-written trigger's", ratio("capture", "sluice.track", "hand-written outbox trigger", "ms a write"), le, 1.25),
    ("cold start of the indexer, ms", value("cold start", "indexer", "ms"), le, 3),
    ("cold start of the trigger, ms", value("cold start", "trigger", "ms"), le, 5),
    ("cold start of the admin function, ms", value("cold start", "admin", "ms"), le, 8),
    ("cold start of the ClickHouse function, ms", value("cold start", "clickhouse", "ms"), le, 8),
    ("cold start of the Kafka function, ms", value("cold start", "kafka", "ms"), le, 8),
    ("cold start of the indexer, against one in Go", ratio("cold start", "indexer", "indexer in Go", "ms"), lt, 1),
    ("cold start of the trigger, against one in Go", ratio("cold start", "trigger", "trigger in Go", "ms"), lt, 1),
    ("peak memory of the trigger, MB", largest("peak MB", *((bench, "sluice") for bench in DRAINED)), le, 64),
    ("peak memory of an indexer, MB", largest("peak MB", ("index", "sluice")), le, 64),
    ("peak memory of one process without a queue, MB", largest("peak MB", ("burst", "sluice run")), le, 64),
    ("peak memory of the ClickHouse function, MB", largest("peak MB", ("clickhouse", "sluice")), le, 64),
    ("peak memory of the Kafka function, MB", largest("peak MB", ("kafka", "sluice")), le, 64),
    ("peak memory of the ingest, MB", largest("peak MB", ("ingest", "sluice")), le, 64),
    ("peak memory of the validator, MB", largest("peak MB", ("validate", "sluice")), le, 64),
    ("largest zip, MB", largest("zip MB", *(("cold start", name) for name in FUNCTIONS)), le, 5),
]


def table(benches: dict[str, list[Round]]) -> str:
    """Every goal whose bench was run, reached or missed, by the median of its rounds."""
    lines = ["| goal | wanted | measured | |", "|---|---:|---:|---|"]
    rounds = [dict(zip(benches, one, strict=True)) for one in zip_longest(*benches.values(), fillvalue={})]
    for words, measure, holds, wanted in GOALS:
        values = []
        for one in rounds:
            try:
                values.append(measure(one))
            except (KeyError, IndexError, ValueError):  # its bench, or its peer, was not run
                continue
        if values:
            measured = statistics.median(values)
            lines.append(f"| {words} | {SIGNS[holds]} {wanted:g} | {measured:.3g} | {'reached' if holds(measured, wanted) else 'missed'} |")
    return "\n".join(lines) + "\n" if len(lines) > 2 else ""
