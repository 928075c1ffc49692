"""Log to ClickHouse: how fast a direct target is drained into, beside a plain batch writer."""

import time
import urllib.parse
import urllib.request
from collections.abc import Iterator

import clickhouse
import commands
import elasticsearch
import postgres
from books import BOOKS, ROWS
from world import DATABASE, World, cpu_s, peak_mb

ROWS_OF_200 = 1_000_000
BATCH = 50_000  # lines of an INSERT by hand
STREAM = """
SET ROLE sluice_owner;
SELECT sluice.define_stream('books', source => 'demo.book', key => 'id');
SELECT sluice.track('demo.book', stream => 'books', key => 'id');
SELECT sluice.deliver('books', target => 'clickhouse', settings => '{"fields": ["id", "title", "body"]}');
"""
DOCUMENTS = "COPY (SELECT row_to_json(d) FROM (SELECT id, title, body, 1 AS _sluice_version, 0 AS _sluice_deleted FROM demo.book) AS d) TO STDOUT WITH (FORMAT csv, QUOTE E'\\x01', DELIMITER E'\\x02')"
REST = "VACUUM ANALYZE demo.book; VACUUM ANALYZE sluice.outbox; CHECKPOINT;"


class Backlog:
    """Rows that are all to be drained, again and again."""

    def __init__(self, world: World, size: int, rows: int):
        self.world, self.rows = world, rows
        commands.servers({"STACK": world.stack.name, "TARGETS": "clickhouse"})
        world.make_database()
        self.ask(f"DROP DATABASE IF EXISTS {DATABASE}", database="default")
        self.ask(f"CREATE DATABASE {DATABASE}", database="default")
        world.sql(BOOKS + STREAM)
        world.migrate(CLICKHOUSE_SECRET_ARN="clickhouse")
        self.seen = world.sql("SELECT sluice.snapshot()").strip()
        world.sql(ROWS.format(bytes=size, rows=rows))
        world.sql(REST)

    def ask(self, statement: str, data: bytes | None = None, database: str = DATABASE) -> str:
        """A statement of ClickHouse; with data it is in the address."""
        url, user, password = elasticsearch.split_credentials(self.world.clickhouse_url)
        query = {"database": database} | ({"query": statement} if data is not None else {})
        headers = {"X-ClickHouse-User": user, "X-ClickHouse-Key": password}
        request = urllib.request.Request(f"{url}/?{urllib.parse.urlencode(query)}", statement.encode() if data is None else data, headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.read().decode()

    def drain(self) -> dict[str, float]:
        """By the function, until all of it is there."""
        self.ask("TRUNCATE TABLE _sluice_books")
        self.world.sql(f"UPDATE sluice.subscription SET seen = '{self.seen}', until = NULL, first_id = NULL, after_id = 0 WHERE name = 'clickhouse'")
        function = self.world.start("clickhouse", 0, CLICKHOUSE_SECRET_ARN="clickhouse", DRAIN="once", STAY="70s")
        try:
            before, servers, began = self.world.cpu_of(postgres), self.world.cpu_of(clickhouse), time.monotonic()
            self.world.ask("invoke/0", {})
            seconds = time.monotonic() - began
            found = int(self.ask("SELECT count() FROM books"))
            assert found == self.rows, found
            # Each insert makes one; merges make others.
            parts = int(self.ask("SELECT uniqExact(min_block_number) FROM system.parts WHERE database = currentDatabase() AND table = '_sluice_books' AND level = 0"))
            million = 1e6 / self.rows
            return {"rows/s": self.rows / seconds, "parts/s": parts / seconds, "CPU s/million": cpu_s(function.pid) * million,
                    "PostgreSQL's": (self.world.cpu_of(postgres) - before) * million,
                    "ClickHouse's": (self.world.cpu_of(clickhouse) - servers) * million, "peak MB": peak_mb(function.pid)}  # fmt: skip
        finally:
            function.kill()
            function.wait()

    def by_hand(self) -> dict[str, float]:
        """The same rows out of COPY, so many a request: no log, no versions, no deletes."""
        self.ask("TRUNCATE TABLE _sluice_books")
        began = time.monotonic()
        lines = self.world.sql(DOCUMENTS).splitlines()
        for first in range(0, len(lines), BATCH):
            self.ask("INSERT INTO _sluice_books FORMAT JSONEachRow", "\n".join(lines[first : first + BATCH]).encode())
        return {"rows/s": self.rows / (time.monotonic() - began)}


def benches(world: World, is_quick: bool) -> Iterator[tuple]:
    """One size of rows."""
    rows = 20_000 if is_quick else ROWS_OF_200
    backlog = Backlog(world, 200, rows)
    contestants = {"sluice": backlog.drain, "COPY and a plain batch writer": backlog.by_hand}
    yield "clickhouse 200 B", f"ClickHouse: {rows:,} rows of 200 B", contestants, 1 if is_quick else 3
