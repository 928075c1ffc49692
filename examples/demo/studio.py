"""The studio, a creators' platform: six streams that go to Elasticsearch, and to ClickHouse and Kafka, too. `make demo TARGETS=all`
shows it behind the cities."""

import time
from decimal import Decimal
from pathlib import Path

from clients import Elasticsearch, Failure, Psql, Stack, literal, stack_command
from story import line, title, wait_for, wait_for_each
from targets import ClickHouse, Topics

HERE = Path(__file__).parent
# Each stream with its source.
STREAMS = {
    "studio_users": "studio.users",
    "studio_creators": "studio.creators",
    "studio_contents": "studio.content_documents",
    "studio_nfts": "studio.nfts",
    "studio_transactions": "studio.transactions",
    "studio_royalty_payments": "studio.royalty_payments",
}
# Of these fields the sums are compared, to the last digit.
SUMS = {"studio_creators": "royalty_share", "studio_nfts": "price", "studio_transactions": "amount", "studio_royalty_payments": "amount"}
PATIENCE_S = 10  # what was committed may still be on its way to the consumer of Kafka
ROYALTIES = """
SELECT name, toString(toStartOfMonth(paid_at)) AS month, toString(sum(amount)) AS royalties
FROM studio_royalty_payments
ALL INNER JOIN (SELECT id AS creator_id, name FROM studio_creators) USING (creator_id)
WHERE creator_id IN (SELECT creator_id FROM studio_royalty_payments GROUP BY creator_id ORDER BY sum(amount) DESC LIMIT 5)
GROUP BY name, month"""


class Studio:
    """The streams, and who is asked about them in each place."""

    def __init__(self, stack: Stack, owner: Psql, app: Psql, search: Elasticsearch, targets: list[str]):
        self.owner, self.app, self.search = owner, app, search
        self._stack, self._targets = stack, targets
        self.clickhouse = ClickHouse(stack) if "clickhouse" in targets else None
        self.topics = None  # once they are there
        names = {"elasticsearch": "Elasticsearch", "clickhouse": "ClickHouse", "kafka": "Kafka"}
        self.places = {name: names[name] for name in ("elasticsearch", *targets)}

    def show(self) -> dict[str, float]:
        """The chapters. How long one change took to each place."""
        self.define()
        try:
            self.load()
            took = self.rename_creator()
            if self.clickhouse:
                self.show_royalties()
            if self.topics:
                self.show_topics()
            self.compare()
        finally:
            if self.topics:
                self.topics.close()
        return took

    def define(self) -> None:
        """Tables, data and streams, unless they are there."""
        title(f"A creators' platform: six streams to {self._places()}")
        self.owner.transaction(HERE / "studio.sql", *(HERE / f"studio_{target}.sql" for target in self._targets))
        stack_command("migrate")
        if "kafka" in self._targets:
            self.topics = Topics(self._stack, list(STREAMS))

    def load(self) -> None:
        """All rows are read, those of an earlier run once more."""
        for stream in STREAMS:
            self.owner.run(f"SELECT sluice.resync({literal(stream)})")
        began, snapshot = time.monotonic(), literal(self.owner.run("SELECT pg_current_snapshot()")[0][0])
        rows = {stream: self.app.value(f"SELECT count(*) FROM {source}") for stream, source in STREAMS.items()}
        streams = literal("{" + ",".join(STREAMS) + "}")

        def settled(reader: str) -> int:
            return self.owner.value(f"SELECT count(*) FROM unnest({streams}::text[]) AS s WHERE sluice.settled({literal(reader)}, {snapshot}, s)")

        looks = {reader: lambda reader=reader: settled(reader) for reader in self.places}
        for reader, seconds in wait_for_each("streams that have arrived", len(STREAMS), looks).items():
            line(self.places[reader], f"{sum(rows.values()):,} documents after {seconds:.1f} s, by resync")
        if self.topics:
            wait_for("topics that were read to their end, and their keys", (True, rows), lambda: (self.topics.has_read_all, self.topics.keys()))
            line("a consumer of the topics", f"has them after {time.monotonic() - began:.1f} s")

    def rename_creator(self) -> dict[str, float]:
        """One row changes, and with it every content that shows it, in each place."""
        key, old, contents = self.app.run(
            "SELECT k.id, k.name, count(*) FROM studio.creators AS k JOIN studio.contents AS c ON c.creator_id = k.id "
            "GROUP BY k.id ORDER BY count(*) DESC, k.id LIMIT 1"
        )[0]
        new = old.removesuffix(" (renamed)") if old.endswith(" (renamed)") else f"{old} (renamed)"
        title(f"{old} becomes {new}: one UPDATE, {int(contents) + 1} documents in each place")

        def in_elasticsearch() -> tuple[int, int]:
            queries = {"studio_creators": {"term": {"name": new}}, "studio_contents": {"term": {"creator_name": new}}}
            return tuple(self.search.count(stream, query) for stream, query in queries.items())

        def in_clickhouse() -> tuple[int, int]:
            queries = {"studio_creators": "name", "studio_contents": "creator_name"}
            return tuple(self.clickhouse.value(f"SELECT count() FROM {stream} WHERE {name} = {literal(new)}") for stream, name in queries.items())

        def in_kafka() -> tuple[int, int]:
            fields = {"studio_creators": "name", "studio_contents": "creator_name"}
            return tuple(sum(one[name] == new for one in self.topics.documents(stream)) for stream, name in fields.items())

        looks = {"elasticsearch": in_elasticsearch, "clickhouse": in_clickhouse, "kafka": in_kafka}
        self.app.run(f"UPDATE studio.creators SET name = {literal(new)} WHERE id = {literal(key)}")
        took = wait_for_each(f"documents of {new}", (1, int(contents)), {name: looks[name] for name in self.places})
        for name, seconds in took.items():
            line(self.places[name], f"the creator and {contents} contents after {seconds:.2f} s")
        return {self.places[name]: seconds for name, seconds in took.items()}

    def show_royalties(self) -> None:
        """What ClickHouse is good for."""
        title("ClickHouse: royalties by creator and month, of the five who had most")
        found = {(name, month): Decimal(royalties) for name, month, royalties in self.clickhouse.ask(ROYALTIES)}
        months = sorted({month for _, month in found})
        totals = {name: sum(found.get((name, month), 0) for month in months) for name, _ in found}
        if not totals:
            raise Failure("ClickHouse has no royalties")
        print(f"  {'':<27}" + "".join(f"{month[:7]:>12}" for month in [*months, "in all"]))
        for name in sorted(totals, key=totals.get, reverse=True):
            print(f"  {name:<27}" + "".join(f"{found.get((name, month), 0):>12.4f}" for month in months) + f"{totals[name]:>12.4f}")

    def show_topics(self) -> None:
        """What a consumer is given, and what it can make of it."""
        title("Kafka: what a consumer sees")
        last = max(self.topics.tables["studio_creators"].values(), key=lambda message: message.headers["ce_sequence"])
        line("the last creator", f"studio_creators, partition {last.partition}, offset {last.offset}")
        line("  key", last.key)
        for header in ("ce_type", "ce_sequence", "ce_time"):
            line(f"  {header}", last.headers[header])
        line("  value", last.value if len(last.value) <= 100 else f"{last.value[:99]}…")
        for stream, kept in self.topics.keys().items():
            rows = self.app.value(f"SELECT count(*) FROM {STREAMS[stream]}")
            if kept != rows:
                raise Failure(f"the topic {stream} has {kept} keys, and PostgreSQL has {rows} rows")
            line(stream, f"{self.topics.messages[stream]:,} messages, {kept:,} keys are left: as many as PostgreSQL has rows")

    def compare(self) -> None:
        """Counts and sums of all places; a Failure with all that differs."""
        title(f"The same in PostgreSQL, {self._places()}")
        began = time.monotonic()
        while (wrong := differences(found := self.facts())) and time.monotonic() - began < PATIENCE_S:
            time.sleep(0.1)
        if wrong:
            raise Failure("the places differ:\n    " + "\n    ".join(wrong))
        for stream, (count, total) in found["PostgreSQL"].items():
            line(stream, f"{count:>6,} in each" + (f"   sum of {SUMS[stream]}: {total}" if stream in SUMS else ""))

    def facts(self) -> dict[str, dict[str, tuple]]:
        """Of each place, the count and the sum of each stream."""
        found = {"PostgreSQL": self._in_postgres(), "Elasticsearch": {stream: _facts(stream, self.search.documents(stream)) for stream in STREAMS}}
        if self.clickhouse:
            found["ClickHouse"] = self._in_clickhouse()
        if self.topics:
            found["Kafka"] = {stream: _facts(stream, self.topics.documents(stream)) for stream in STREAMS}
        return found

    def _places(self) -> str:
        *others, last = self.places.values()
        return f"{', '.join(others)} and {last}"

    def _in_postgres(self) -> dict[str, tuple]:
        found = {stream: self.app.run(f"SELECT count(*), {_sum(stream)} FROM {source}")[0] for stream, source in STREAMS.items()}
        return {stream: (int(count), Decimal(total)) for stream, (count, total) in found.items()}

    def _in_clickhouse(self) -> dict[str, tuple]:
        found = {stream: self.clickhouse.ask(f"SELECT count(), toString({_sum(stream)}) FROM {stream}")[0] for stream in STREAMS}
        return {stream: (int(count), Decimal(total)) for stream, (count, total) in found.items()}


def _sum(stream: str) -> str:
    return f"sum({SUMS[stream]})" if stream in SUMS else "0"


def _facts(stream: str, documents: list[dict]) -> tuple[int, Decimal]:
    return len(documents), sum((one[SUMS[stream]] for one in documents), Decimal()) if stream in SUMS else Decimal()


def differences(found: dict[str, dict[str, tuple]]) -> list[str]:
    """What is not as PostgreSQL has it: by place and stream, the count and the sum."""
    source = found["PostgreSQL"]
    return [
        f"{stream}: PostgreSQL has {source[stream][0]} with the sum {source[stream][1]}, {place} has {facts[stream][0]} with {facts[stream][1]}"
        for place, facts in found.items()
        for stream in source
        if facts[stream] != source[stream]
    ]
