"""ClickHouse and Kafka beside the stack's other servers, in stacks of their own."""

import struct
import subprocess
import sys
import unittest
import urllib.error
import urllib.request
import uuid
from pathlib import Path
from unittest.mock import patch
from urllib.parse import quote, urlsplit

STACK = Path(__file__).resolve().parents[1] / "stack"
sys.path.insert(0, str(STACK))

import clickhouse  # noqa: E402
import commands  # noqa: E402
import exports  # noqa: E402
import kafka  # noqa: E402
import process  # noqa: E402
from choices import made, named_targets, targets  # noqa: E402
from layout import Stack  # noqa: E402

NAME, OTHER = "test-targets", "test-targets-2"
CREATE_TOPICS = 19  # Kafka's number of that request


def up(name: str, wanted: str) -> None:
    """The stack with these targets, and without its other servers."""
    with made({"STACK": name, "TARGETS": wanted}) as stack:
        commands.start_servers(stack, targets(stack))


def make(command: str, **arguments: str) -> subprocess.CompletedProcess:
    """What `make` calls, as a process of its own."""
    pairs = [f"{name}={value}" for name, value in ({"STACK": NAME} | arguments).items()]
    return subprocess.run([STACK / "run", command, *pairs], capture_output=True, text=True)


def must(command: str, **arguments: str) -> str:
    """What it prints; it has to succeed."""
    done = make(command, **arguments)
    if done.returncode:
        raise AssertionError(f"{command}: {done.stderr}")
    return done.stdout


def ask(statement: str, data: str = "", password: str | None = None) -> str:
    """ClickHouse's answer to its user."""
    url = urlsplit(exports.of(Stack(NAME))["CLICKHOUSE_URL"])
    headers = {"X-ClickHouse-User": "sluice", "X-ClickHouse-Key": Stack(NAME).password("clickhouse") if password is None else password}
    request = urllib.request.Request(f"http://{url.hostname}:{url.port}/?query={quote(statement)}", data.encode(), headers)
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as answer:
        return answer.read().decode()


class Targets(unittest.TestCase):
    before: process.Process | None
    after: process.Process | None

    @classmethod
    def setUpClass(cls) -> None:
        for name in (NAME, OTHER):
            must("clean", STACK=name)
        cls.addClassCleanup(must, "clean")
        up(NAME, "clickhouse")
        cls.before = process.find(Stack(NAME), clickhouse.NAME)
        with patch("kafka.uuid.uuid4", lambda: uuid.UUID(int=0xF8 << 120)):  # such a cluster's name begins with a dash
            up(NAME, "kafka")
        cls.after = process.find(Stack(NAME), clickhouse.NAME)

    def test_clickhouse_finds_the_newest_version_of_a_row(self) -> None:
        ask("CREATE TABLE newest (key UInt64, version UInt64, title String) ENGINE = ReplacingMergeTree(version) ORDER BY key")
        for version, title in ((2, "second"), (1, "first")):
            ask("INSERT INTO newest FORMAT JSONEachRow", f'{{"key": 1, "version": {version}, "title": "{title}"}}')
        self.assertEqual(ask("SELECT title FROM newest FINAL"), "second\n")

    def test_clickhouse_refuses_whoever_has_no_password(self) -> None:
        for password in ("wrong", ""):
            with self.subTest(password=password), self.assertRaises(urllib.error.HTTPError) as refused:
                ask("SELECT 1", password=password)
            self.assertIn(refused.exception.code, (401, 403))
            refused.exception.close()
        with self.assertRaises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"http://127.0.0.1:{Stack(NAME).port(clickhouse.CLICKHOUSE_PORT)}/?query=SELECT+1")
        self.assertIn(refused.exception.code, (401, 403))
        refused.exception.close()

    def test_a_target_that_is_killed_starts_again_with_its_data(self) -> None:
        stack = Stack(NAME)
        ask("CREATE TABLE kept (key UInt64) ENGINE = MergeTree ORDER BY key")
        ask("INSERT INTO kept FORMAT JSONEachRow", '{"key": 17}')
        cluster = (stack.folder / "kafka/data/meta.properties").read_text()
        for server in (clickhouse, kafka):
            with self.subTest(server.NAME):
                must("signal", SERVICE=server.NAME, SIGNAL="KILL")
                self.assertFalse(server.is_healthy(stack))
                must("start", SERVICE=server.NAME)
                self.assertTrue(server.is_healthy(stack))
        self.assertEqual(ask("SELECT key FROM kept"), "17\n")
        self.assertEqual((stack.folder / "kafka/data/meta.properties").read_text(), cluster)

    def test_the_commands_know_the_targets_that_the_stack_has(self) -> None:
        exported = {line.removeprefix("export ").partition("=")[0] for line in must("env").splitlines()}
        of_kafka = {f"KAFKA_{name}" for name in ("BROKERS", "SASL_BROKERS", "SASL_USER", "SASL_PASSWORD", "TLS_BROKERS", "CA_FILE")}
        self.assertLessEqual({"CLICKHOUSE_URL"} | of_kafka, exported)
        self.assertNotIn("CHDB_URL", exported)
        shown = {line.split()[0]: line.split()[-2] for line in must("status").splitlines()}
        self.assertEqual((shown["clickhouse"], shown["kafka"]), ("yes", "yes"))
        self.assertNotIn("chdb", shown)
        self.assertIn("Kafka version: 4.1.2", must("logs", SERVICE="kafka"))

    def test_kafkas_topics_are_listed_with_their_partitions(self) -> None:
        self.assertEqual(must("list-kafka-topics"), "")
        name = b"shop.books"
        topic = struct.pack(">h", len(name)) + name + struct.pack(">ihii", 3, 1, 0, 0)  # three partitions on one broker each
        kafka.ask(Stack(NAME), CREATE_TOPICS, 2, struct.pack(">i", 1) + topic + struct.pack(">i?", 60_000, False))
        # The controller has it at once; the broker, which is asked, hears of it.
        process.wait_until(lambda: kafka.topics(Stack(NAME)), "the topic", None, kafka.log(Stack(NAME)), 60)
        self.assertEqual(must("list-kafka-topics").split(), ["shop.books", "3", "partitions"])

    def test_an_unknown_target_is_refused_by_name_and_leaves_nothing(self) -> None:
        done = make("servers", STACK=OTHER, TARGETS="clickhouse,kafak")
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("TARGETS=kafak", done.stderr)
        self.assertFalse(Stack(OTHER).folder.exists())

    def test_all_are_those_that_streams_go_to(self) -> None:
        self.assertEqual(named_targets({"TARGETS": "all"}), ["clickhouse", "kafka"])
        self.assertEqual(named_targets({"TARGETS": "chdb,all"}), ["clickhouse", "kafka", "chdb"])
        self.assertEqual(named_targets({}), [])

    def test_a_target_is_added_and_what_runs_goes_on(self) -> None:
        self.assertEqual(targets(Stack(NAME)), [clickhouse, kafka])
        self.assertIsNotNone(self.before)
        self.assertEqual(self.after, self.before)

    def test_clean_takes_a_target_away(self) -> None:
        up(OTHER, "clickhouse")
        stack = Stack(OTHER)
        self.assertTrue(clickhouse.is_healthy(stack))
        must("clean", STACK=OTHER)
        self.assertIsNone(process.find(stack, clickhouse.NAME))
        self.assertFalse(stack.folder.exists())


if __name__ == "__main__":
    unittest.main(warnings="ignore")  # servers outlive the test that has started them
