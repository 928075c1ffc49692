"""Log to a direct target: how fast ClickHouse and Kafka are drained into, beside others that bring the same rows there."""

import mmap
import os
import shutil
import struct
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import clickhouse
import commands
import drain
import kafka
import postgres
import search
from books import BOOKS
from peers import NotRun, debezium
from world import DATABASE, World, cpu_s, peak_mb

SIZE = 200
ROWS_OF_200, QUICK = 1_000_000, 20_000
BURST = 300_000  # of a peer: as many as it brings in some 10 s
BATCH = 50_000  # rows of an INSERT by hand
WRITES, SECONDS, QUICK_SECONDS = 200, 15, 4  # a second, and for how long
PARTITIONS = 4
PATIENCE_S = 120
HEADER_BYTES, IS_MARK = 61, 0x20  # of a batch of Kafka: its length; an attribute, of what ends a transaction
DELIVERED = f"""
SELECT sluice.deliver('books', target => 'clickhouse', settings => '{{"fields": ["id", "title", "body"]}}');
SELECT sluice.deliver('books', target => 'kafka', settings => '{{"fields": ["id", "title", "body"], "partitions": {PARTITIONS}}}');
"""
DOCUMENTS = "COPY (SELECT row_to_json(d) FROM (SELECT id, title, body, 1 AS _sluice_version, 0 AS _sluice_deleted FROM demo.book) AS d) TO STDOUT WITH (FORMAT csv, QUOTE E'\\x01', DELIMITER E'\\x02')"
# The same rows in a table that Sluice does not track.
PLAIN = "SET ROLE sluice_owner; CREATE TABLE demo.plain (LIKE demo.book INCLUDING ALL);"
BURST_OF = "SET ROLE sluice_owner; INSERT INTO demo.plain SELECT * FROM demo.book WHERE id <= {rows};"
TRICKLE = """
SET ROLE sluice_owner;
DO $$
DECLARE
    until timestamptz := clock_timestamp() + interval '{seconds} s';
    n integer := 0;
BEGIN
    WHILE clock_timestamp() < until LOOP
        n := n + 1;
        UPDATE demo.book SET title = title || '.' WHERE id = n;
        COMMIT;
        PERFORM pg_sleep(1.0 / {rate});
    END LOOP;
END $$;
"""


class Backlog(drain.Backlog):
    """The rows in the log, of a stream that goes to Elasticsearch, ClickHouse and Kafka."""

    def define(self) -> None:
        """New tables, and a broker with nothing in it: a topic that is there only grows."""
        stack = self.world.stack
        kafka.stop(stack)
        shutil.rmtree(stack.folder / kafka.NAME / "data", ignore_errors=True)
        commands.servers({"STACK": stack.name, "TARGETS": "clickhouse,kafka"})
        self.env = {"CLICKHOUSE_SECRET_ARN": "clickhouse", "KAFKA_BROKERS": kafka.client_env(stack)["KAFKA_BROKERS"]}
        self.ask(f"DROP DATABASE IF EXISTS {DATABASE}", database="default")
        self.ask(f"CREATE DATABASE {DATABASE}", database="default")
        self.world.sql(BOOKS + drain.TRACKED.format(source="book") + DELIVERED + PLAIN)
        self.world.migrate(**self.env)

    def ask(self, statement: str, data: bytes | None = None, database: str = DATABASE) -> str:
        """A statement of ClickHouse; with data it is in the address."""
        url, user, password = search.split_credentials(self.world.clickhouse_url)
        query = {"database": database} | ({"query": statement} if data is not None else {})
        headers = {"X-ClickHouse-User": user, "X-ClickHouse-Key": password}
        request = urllib.request.Request(f"{url}/?{urllib.parse.urlencode(query)}", statement.encode() if data is None else data, headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.read().decode()

    def rows_in(self, table: str) -> int:
        """Of ClickHouse."""
        return int(self.ask(f"SELECT count() FROM {table}"))

    def messages_in(self, topic: str) -> int:
        """All that the broker has of a topic, by the headers of its batches: what marks transactions is none."""
        return sum(count_messages(segment) for segment in (self.world.stack.folder / kafka.NAME / "data").glob(f"{topic}-[0-9]*/*.log"))

    def written(self, function: str, server, unit: str, count: Callable[[], int]) -> dict[str, float]:
        """By a function, until all of the backlog is with a server."""
        self.rewind(function)
        had = count()
        process = self.world.start(function, 0, **self.env, DRAIN="once", STAY="70s")
        try:
            before, theirs, began = self.world.cpu_of(postgres), self.world.cpu_of(server), time.monotonic()
            self.world.ask("invoke/0", {})
            seconds = time.monotonic() - began
            found = count() - had
            assert found == self.rows, f"{found} of {self.rows}"
            million = 1e6 / self.rows
            return {f"{unit}/s": self.rows / seconds, unit: self.rows, "CPU s/million": cpu_s(process.pid) * million,
                    "PostgreSQL's": (self.world.cpu_of(postgres) - before) * million,
                    "the target's": (self.world.cpu_of(server) - theirs) * million, "peak MB": peak_mb(process.pid)}  # fmt: skip
        finally:
            process.kill()
            process.wait()

    def into_clickhouse(self) -> dict[str, float]:
        """By the function; and how many parts that made a second."""
        self.ask("TRUNCATE TABLE _sluice_books")
        parts, began = self.parts_made(), time.monotonic()
        measured = self.written("clickhouse", clickhouse, "rows", lambda: self.rows_in("books"))
        return measured | {"parts/s": pace(self.parts_made() - parts, time.monotonic() - began)}

    def parts_made(self) -> int:
        """By inserts, since ClickHouse was started: there is no other writer. Merges make others."""
        return int(self.ask("SELECT sum(value) FROM system.events WHERE event = 'MergeTreeDataWriterBlocks'"))

    def into_kafka(self) -> dict[str, float]:
        """By the function, in transactions."""
        return self.written("kafka", kafka, "messages", lambda: self.messages_in("books"))

    def trickle(self, rate: int, seconds: int) -> dict[str, float]:
        """Single writes at a rate, each a transaction, while the function stays."""
        self.ask("TRUNCATE TABLE _sluice_books")
        process = self.world.start("clickhouse", 0, **self.env, DRAIN="stay", STAY=f"{seconds + 3}s")
        try:
            writer = threading.Thread(target=self.world.sql, args=[TRICKLE.format(seconds=seconds, rate=rate)])
            had, began = self.parts_made(), time.monotonic()
            writer.start()
            self.world.ask("invoke/0", {})
            took = time.monotonic() - began
            writer.join()
            parts, rows = pace(self.parts_made() - had, took), self.rows_in("books")
            return {"parts/s": parts, "rows": rows, "rows/s": rows / took, "CPU s": cpu_s(process.pid), "peak MB": peak_mb(process.pid)}
        finally:
            process.kill()
            process.wait()

    def by_hand(self) -> dict[str, float]:
        """The same rows out of COPY, so many an INSERT: no log, no versions, no deletes."""
        self.ask("TRUNCATE TABLE _sluice_books")
        before, theirs, began = self.world.cpu_of(postgres), self.world.cpu_of(clickhouse), time.monotonic()
        lines = self.world.sql(DOCUMENTS).splitlines()
        for first in range(0, len(lines), BATCH):
            self.ask("INSERT INTO _sluice_books FORMAT JSONEachRow", "\n".join(lines[first : first + BATCH]).encode())
        seconds, million = time.monotonic() - began, 1e6 / self.rows
        assert self.rows_in("books") == self.rows
        return {"rows/s": self.rows / seconds, "rows": self.rows, "PostgreSQL's": (self.world.cpu_of(postgres) - before) * million,
                "the target's": (self.world.cpu_of(clickhouse) - theirs) * million}  # fmt: skip

    def debezium_into_clickhouse(self, rows: int) -> dict[str, float]:
        """Batches as large as the other writer's."""
        self.ask("CREATE TABLE IF NOT EXISTS plain (id Int64, title String, body String) ENGINE = MergeTree ORDER BY id")
        self.ask("TRUNCATE TABLE plain")
        url, user, password = search.split_credentials(self.world.clickhouse_url)
        query = urllib.parse.urlencode({"database": DATABASE, "query": "INSERT INTO plain FORMAT JSONEachRow"})
        larger = {"max.batch.size": BATCH, "max.queue.size": 2 * BATCH}
        env = {"TARGET": "clickhouse", "INSERT_URL": f"{url}/?{query}", "INSERT_USER": user, "INSERT_PASSWORD": password}
        engine = debezium.engine(self.world, "demo.plain", larger, **env)
        return self.burst(engine, clickhouse, "rows", rows, lambda: self.rows_in("plain"))

    def debezium_into_kafka(self, rows: int) -> dict[str, float]:
        """Into a topic like the other."""
        env = {"TARGET": "kafka", "BROKERS": self.env["KAFKA_BROKERS"], "TOPIC": "plain", "PARTITIONS": str(PARTITIONS)}
        engine = debezium.engine(self.world, "demo.plain", {}, **env)
        return self.burst(engine, kafka, "messages", rows, lambda: self.messages_in("plain"))

    def burst(self, engine: AbstractContextManager, server, unit: str, rows: int, count: Callable[[], int]) -> dict[str, float]:
        """One transaction with so many rows, until a peer has brought all of them."""
        self.world.sql("SET ROLE sluice_owner; TRUNCATE demo.plain")
        had = count()
        with engine as started:
            self.world.sql(BURST_OF.format(rows=rows))
            committed = time.monotonic()
            before = [cpu_s(started.pid), self.world.cpu_of(postgres), self.world.cpu_of(server)]
            while count() - had < rows:
                if time.monotonic() - committed > PATIENCE_S:
                    raise NotRun(f"{rows:,} {unit} had not arrived {PATIENCE_S} s after their commit")
                time.sleep(0.1)
            seconds = time.monotonic() - committed
            after = [cpu_s(started.pid), self.world.cpu_of(postgres), self.world.cpu_of(server)]
            own, database, theirs = ((now - then) * 1e6 / rows for then, now in zip(before, after, strict=True))
            return {f"{unit}/s": rows / seconds, unit: rows, "CPU s/million": own, "PostgreSQL's": database, "the target's": theirs,
                    "peak MB": peak_mb(started.pid)}  # fmt: skip


def pace(parts: int, seconds: float) -> float:
    """From the first to the last, of which there is one pause less."""
    return max(parts - 1, 0) / seconds


def count_messages(segment: Path) -> int:
    """Of a part of a partition. The header of a batch is not compressed: where it ends, what it is, how many it has."""
    at = messages = 0
    with segment.open("rb") as file:
        if not (size := os.fstat(file.fileno()).st_size):
            return 0
        with mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ) as log:
            while at + HEADER_BYTES <= size:
                (length,), (attributes,) = struct.unpack_from(">i", log, at + 8), struct.unpack_from(">h", log, at + 21)
                if not attributes & IS_MARK:
                    messages += struct.unpack_from(">i", log, at + 57)[0]
                at += 12 + length
    return messages


def benches(world: World, is_quick: bool) -> Iterator[tuple]:
    """ClickHouse, then Kafka."""
    rows, rounds = (QUICK, 1) if is_quick else (ROWS_OF_200, 3)
    backlog = Backlog(world, SIZE, rows, "book")
    contestants = {"limit: COPY and plain batches": backlog.by_hand, "sluice": backlog.into_clickhouse}
    if not is_quick:
        contestants[f"Debezium {debezium.VERSION} and plain batches"] = lambda: backlog.debezium_into_clickhouse(BURST)
    yield "clickhouse", f"ClickHouse: {rows:,} rows of {SIZE} B", contestants, rounds
    contestants = {"sluice": backlog.into_kafka}
    if not is_quick:
        contestants[f"Debezium {debezium.VERSION} and Kafka's producer"] = lambda: backlog.debezium_into_kafka(BURST)
    yield "kafka", f"Kafka: {rows:,} messages of {SIZE} B, acks=all", contestants, rounds
    seconds = QUICK_SECONDS if is_quick else SECONDS
    contestants = {"sluice": lambda: backlog.trickle(WRITES, seconds)}
    yield "clickhouse parts", f"ClickHouse: parts of single writes, {WRITES} a second", contestants, 1
