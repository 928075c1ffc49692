"""What the demo asks of ClickHouse and Kafka: ClickHouse over HTTP, Kafka by a consumer in a process of its own."""

import json
import subprocess
import threading
from dataclasses import dataclass
from urllib.parse import quote

from clients import REPOSITORY, Failure, Stack, connect, document  # isort: skip
import clickhouse  # isort: skip
import kafka  # isort: skip

# In the environment of the tests' consumer: librdkafka, out of PyPI.
CONSUMER = ("functions/kafka/tests/consumer/run", "examples/demo/consumer.py")


class ClickHouse:
    """A statement in, rows of text out."""

    def __init__(self, stack: Stack):
        url, user, password, database = clickhouse.split(clickhouse.client_env(stack)["CLICKHOUSE_URL"])
        self._http = connect(url)
        self._headers = {"X-ClickHouse-User": user, "X-ClickHouse-Key": password} | ({"X-ClickHouse-Database": database} if database else {})

    def ask(self, query: str) -> list[list[str]]:
        """The rows of a query."""
        self._http.request("POST", f"/?query={quote(query)}", headers=self._headers)
        answer = self._http.getresponse()
        text = answer.read().decode(errors="replace")
        if answer.status != 200:
            raise Failure(f"ClickHouse answers {answer.status} to {query!r}: {text[:500]}")
        return [line.split("\t") for line in text.splitlines()]

    def value(self, query: str) -> int:
        """The one number that a query gives."""
        return int(self.ask(query)[0][0])


@dataclass(frozen=True)
class Message:
    """One of a topic, as a consumer gets it. A delete has no value."""

    topic: str
    partition: int
    offset: int
    key: str
    headers: dict[str, str]
    value: str | None


class Topics:
    """A consumer that reads topics from their beginning, and goes on reading. It keeps the last message of each key."""

    def __init__(self, stack: Stack, topics: list[str]):
        command = [*(REPOSITORY / part for part in CONSUMER), kafka.client_env(stack)["KAFKA_BROKERS"], *topics]
        self.tables: dict[str, dict[str, Message]] = {topic: {} for topic in topics}
        self.messages = dict.fromkeys(topics, 0)  # how many there were
        self.has_read_all = False
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, encoding="utf-8")
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self._process.stdout:
            if (told := json.loads(line)) is None:
                self.has_read_all = True
                continue
            message = Message(*told)
            self.messages[message.topic] += 1
            if message.value is None:
                self.tables[message.topic].pop(message.key, None)
            else:
                self.tables[message.topic][message.key] = message

    def keys(self) -> dict[str, int]:
        """How many each topic has."""
        self._check()
        return {topic: len(table) for topic, table in self.tables.items()}

    def _check(self) -> None:
        if self._process.poll() is not None:
            raise Failure("the consumer of Kafka has ended; the reason is above")

    def documents(self, topic: str) -> list[dict]:
        """The table that is left of a topic, with numbers as they were written."""
        self._check()
        return [document(message.value) for message in list(self.tables[topic].values())]

    def close(self) -> None:
        """Ends the consumer."""
        self._process.terminate()
        self._process.wait()
