"""Kafka: one broker that is its own controller, out of Maven Central's jars."""

import base64
import os
import shutil
import socket
import struct
import subprocess
import uuid
from pathlib import Path

import certificate
import process
from console import Failure
from download import maven_folder
from java import find_java
from layout import KAFKA_CONTROLLER_PORT, KAFKA_PORT, KAFKA_SASL_PORT, KAFKA_TLS_PORT, SERVERS, Stack

NAME = "kafka"
PORTS = {"Kafka": KAFKA_PORT, "Kafka (SASL)": KAFKA_SASL_PORT, "Kafka (TLS)": KAFKA_TLS_PORT, "Kafka (controller)": KAFKA_CONTROLLER_PORT}
USER = "sluice"
VERSION = "4.1.2"
JAVA = 17
HEAP = "256m"
HERE = Path(__file__).parent
HOME = SERVERS / f"kafka-{VERSION}"
LOGGER = ("showDateTime=true", "dateTimeFormat=yyyy-MM-dd HH:mm:ss.SSS")
SCRAM = ("SCRAM-SHA-256", "SCRAM-SHA-512")
METADATA = 3  # the request's key
WITH_LOGIN = ("sasl_plaintext", "sasl_ssl")  # listeners


def install(stack: Stack) -> Path:
    """The folder of the jars, downloaded if need be."""
    return maven_folder(NAME, HERE / "kafka.txt", HOME, stack.facts.get("maven_repository"))


def start(stack: Stack) -> subprocess.Popen | None:
    """Starts the broker unless it runs; `wait` has to follow."""
    if process.find(stack, NAME):
        return None
    folder = process.own_folder(stack.folder / NAME)
    java = [find_java(JAVA) / "bin/java", "-XX:+UseSerialGC", "-cp", f"{install(stack)}/*", *(f"-Dorg.slf4j.simpleLogger.{it}" for it in LOGGER)]
    config = _write(folder / "server.properties", "".join(f"{name}={value}\n" for name, value in _settings(stack, folder).items()))
    if not (folder / "data/meta.properties").exists():
        _format(stack, folder, [*java, "-Xmx128m", "-XX:TieredStopAtLevel=1"], config)
    command = [*java, f"-Xms{HEAP}", f"-Xmx{HEAP}", "kafka.Kafka", config]
    return process.start(stack, NAME, command, {"HOME": str(folder)}, folder, log(stack), **process.as_server_user())


def wait(stack: Stack, launched: subprocess.Popen | None) -> None:
    """Waits for health."""
    process.wait_until(lambda: is_healthy(stack), "Kafka", launched, log(stack), 240)


def stop(stack: Stack) -> bool:
    """The broker closes its logs, so that the next start has nothing to recover."""
    return process.stop(stack, NAME)


def is_healthy(stack: Stack) -> bool:
    """True when the broker names itself as one of the cluster's, which is when it takes topics and messages. Of given ones the first
    has to answer so."""
    try:
        return _Answer(ask(stack, METADATA, 1, struct.pack(">i", 0))).integer() > 0  # about no topic; brokers come first
    except (OSError, ValueError, struct.error):
        return False


def topics(stack: Stack) -> dict[str, int]:
    """All that are there, but for Kafka's own, with how many partitions each has."""
    try:
        answer = _Answer(ask(stack, METADATA, 1, struct.pack(">i", -1)))  # about all
    except OSError as error:
        raise Failure(f"Kafka does not answer: {error}") from error
    for _ in range(answer.integer()):  # brokers: number, host, port, rack
        answer.take(4)
        answer.text()
        answer.take(4)
        answer.text()
    answer.take(4)  # the controller's number
    found = {}
    for _ in range(answer.integer()):  # topics: error, name, whether it is Kafka's own, partitions
        answer.take(2)
        name, is_internal, partitions = answer.text(), answer.take(1) == b"\1", answer.integer()
        for _ in range(partitions):  # error, number, leader, and two lists of brokers
            answer.take(2 + 4 + 4)
            answer.take(4 * answer.integer())
            answer.take(4 * answer.integer())
        if not is_internal:
            found[name] = partitions
    return found


def ask(stack: Stack, key: int, version: int, body: bytes) -> bytes:
    """What the first broker answers to a request of Kafka's protocol."""
    request = struct.pack(">hhih", key, version, 1, -1) + body  # number 1, of no client's name
    host, _, port = client_env(stack)["KAFKA_BROKERS"].partition(",")[0].rpartition(":")
    with socket.create_connection((host.strip("[]"), int(port)), timeout=5) as connection:
        connection.sendall(struct.pack(">i", len(request)) + request)
        answers = connection.makefile("rb")
        (length,) = struct.unpack(">i", answers.read(4))
        return answers.read(length)[4:]  # behind the request's number


class _Answer:
    """Reads Kafka's encoding from its beginning to its end."""

    def __init__(self, encoded: bytes):
        self.left = encoded

    def take(self, count: int) -> bytes:
        taken, self.left = self.left[:count], self.left[count:]
        return taken

    def integer(self) -> int:
        return struct.unpack(">i", self.take(4))[0]

    def text(self) -> str:
        (length,) = struct.unpack(">h", self.take(2))
        return self.take(max(length, 0)).decode()


def log(stack: Stack) -> Path:
    """The broker's log."""
    return stack.folder / NAME / "server.log"


def client_env(stack: Stack) -> dict[str, str]:
    """What its clients have to know: a listener that asks nobody who he is, and two that do, by PLAIN or SCRAM, one of them in TLS."""
    given = stack.facts.get("use_kafka")
    without_login = {"KAFKA_BROKERS": given or f"127.0.0.1:{stack.port(KAFKA_PORT)}"}
    if given or stack.facts.get("docker"):  # where the other listeners are missing
        return without_login
    return without_login | {
        "KAFKA_SASL_BROKERS": f"127.0.0.1:{stack.port(KAFKA_SASL_PORT)}",
        "KAFKA_TLS_BROKERS": f"127.0.0.1:{stack.port(KAFKA_TLS_PORT)}",
        "KAFKA_CA_FILE": str(stack.tls / "ca.pem"),
        "KAFKA_SASL_USER": USER,
        "KAFKA_SASL_PASSWORD": stack.password(NAME),
    }


def _one_line(file: Path) -> str:
    """A text as a value of Java's properties."""
    return file.read_text().replace("\n", "\\n")


def _settings(stack: Stack, folder: Path) -> dict[str, object]:
    ports = {"PLAINTEXT": KAFKA_PORT, "SASL_PLAINTEXT": KAFKA_SASL_PORT, "SASL_SSL": KAFKA_TLS_PORT, "CONTROLLER": KAFKA_CONTROLLER_PORT}
    at = {name: f"{name}://127.0.0.1:{stack.port(first)}" for name, first in ports.items()}
    tls = certificate.make(stack)
    login = "org.apache.kafka.common.security.{}LoginModule required"
    return {
        "process.roles": "broker,controller",
        "node.id": 1,
        "controller.quorum.voters": f"1@127.0.0.1:{stack.port(KAFKA_CONTROLLER_PORT)}",
        "controller.listener.names": "CONTROLLER",
        "listeners": ",".join(at.values()),
        "advertised.listeners": ",".join(at[name] for name in ports if name != "CONTROLLER"),
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT,SASL_SSL:SASL_SSL,CONTROLLER:PLAINTEXT",
        "inter.broker.listener.name": "PLAINTEXT",
        "sasl.enabled.mechanisms": ",".join(["PLAIN", *SCRAM]),
        **{f"listener.name.{name}.plain.sasl.jaas.config": f'{login.format("plain.Plain")} user_{USER}="{stack.password(NAME)}";' for name in WITH_LOGIN},
        **{f"listener.name.{name}.{of.lower()}.sasl.jaas.config": login.format("scram.Scram") + ";" for name in WITH_LOGIN for of in SCRAM},
        "listener.name.sasl_ssl.ssl.keystore.type": "PEM",
        "listener.name.sasl_ssl.ssl.keystore.key": _one_line(tls / "server.key"),
        "listener.name.sasl_ssl.ssl.keystore.certificate.chain": _one_line(tls / "server.pem"),
        # Whoever is let in may do all, but for what a test forbids by an ACL.
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "allow.everyone.if.no.acl.found": "true",
        "log.dirs": folder / "data",
        "auto.create.topics.enable": "false",  # a topic is made by whoever is to make it, or missed
        # One broker holds all there is.
        "offsets.topic.replication.factor": 1,
        "offsets.topic.num.partitions": 3,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        "transaction.state.log.num.partitions": 3,
        "share.coordinator.state.topic.replication.factor": 1,
        "share.coordinator.state.topic.min.isr": 1,
        "share.coordinator.state.topic.num.partitions": 3,
        "group.initial.rebalance.delay.ms": 0,
        # A broker that was killed may only come back when its session is over; by default that takes nine seconds.
        "broker.session.timeout.ms": 3000,
        "broker.heartbeat.interval.ms": 500,
        # A topic with a short `segment.ms` and a small `min.cleanable.dirty.ratio` is compacted within a second or two; the defaults
        # look every 15 seconds for what to compact, and after five minutes for what is too old.
        "log.cleaner.backoff.ms": 200,
        "log.cleaner.dedupe.buffer.size": 16 << 20,  # of the heap; 128 MiB by default
        "log.initial.task.delay.ms": 1000,
        "log.retention.check.interval.ms": 1000,
    }


def _format(stack: Stack, folder: Path, java: list, config: Path) -> None:
    """Makes the cluster, with the user's SCRAM credentials in it; PLAIN's are in the configuration."""
    cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    shutil.rmtree(folder / "data", ignore_errors=True)  # half of one
    users = [part for name in SCRAM for part in ("--add-scram", f"{name}=[name={USER},password={stack.password(NAME)}]")]
    # In a file, since everybody can read a command line.
    arguments = _write(folder / "format.arguments", "\n".join(["kafka.tools.StorageTool", "format", f"--cluster-id={cluster}", "-c", f'"{config}"', *users]))
    done = subprocess.run([*java, f"@{arguments}"], cwd=folder, env={"HOME": str(folder)}, capture_output=True, text=True, **process.as_server_user())
    arguments.unlink()
    if done.returncode:
        raise Failure(f"Kafka's storage cannot be made: {(done.stderr or done.stdout).strip()}")


def _write(file: Path, text: str) -> Path:
    """For the servers' user alone, since there are passwords in it."""
    file.touch(0o600)
    file.write_text(text)
    if os.geteuid() == 0:
        os.chown(file, process.SERVER_USER, process.SERVER_USER)
    return file
