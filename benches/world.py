"""What the benches run in: servers of their own, a database that is made anew, and the functions' own binaries as processes
that a stand-in of AWS drives."""

import json
import os
import platform
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import clickhouse
import commands
import elasticsearch
import postgres
import process
import search
from books import BOOKS, MAPPING
from console import Failure, say
from layout import Stack

DATABASE = "bench"
PREFIX = "bench-"
INDEXERS = 4  # side by side: one less than the template's MaximumConcurrency, as many as the limit has requests
PROFILES = 100_000  # of the origin of an ingest
TICKS = os.sysconf("SC_CLK_TCK")


class World:
    """Made by the first bench, ended with the last."""

    def __init__(self, stack: str, binaries: Path, sluice: Path, bench: Path):
        self.binaries, self.sluice, self.bench = binaries, sluice, bench
        if Stack(stack).exists:
            Stack(stack).remember(targets="")  # a bench that wants one starts it
        commands.servers({"STACK": stack})
        self.stack = Stack(stack)
        if self.sql("SHOW wal_level", "postgres").strip() != "logical":  # for those that read the log of PostgreSQL
            self.sql("ALTER SYSTEM SET wal_level = logical", "postgres")
            commands.down({"STACK": stack})
            commands.servers({"STACK": stack})
        url, user, password = search.split_credentials(self.stack.elasticsearch_url)
        connection = postgres.connection(self.stack.database_url)
        self.database_url = self.stack.database_url.rpartition("/")[0] + "/" + DATABASE
        where = {"host": connection["PGHOST"], "port": int(connection["PGPORT"]), "dbname": DATABASE}
        secrets = {name: {"username": f"sluice_{name}", "password": self.stack.password(f"sluice_{name}"), **where} for name in ("owner", "functions")}
        secrets["elasticsearch"] = {"url": url, "username": user, "password": password}
        self.clickhouse_url = clickhouse.client_env(self.stack)["CLICKHOUSE_URL"]  # whoever wants it starts it
        url, user, password = search.split_credentials(self.clickhouse_url)
        secrets["clickhouse"] = {"url": url, "username": user, "password": password, "database": DATABASE}
        env = os.environ | {f"SECRET_{name}": json.dumps(secret) for name, secret in secrets.items()}
        env |= {"ORIGIN_PROFILES": str(PROFILES), "ORIGIN_BATCH": "5000", "ORIGIN_INVALID": "0", "ORIGIN_DUPLICATE": "0", "ORIGIN_OUTDATED": "0"}
        self.server = subprocess.Popen([bench, "serve", "8"], env=env, stdout=subprocess.PIPE, text=True)
        self.ports = json.loads(self.server.stdout.readline())

    def facts(self) -> dict[str, object]:
        """What the figures depend on."""
        commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=Path(__file__).parent, capture_output=True, text=True).stdout.strip()
        return {
            "commit": commit or "unknown", "PostgreSQL": self.sql("SHOW server_version", "postgres").split()[0],
            "Elasticsearch": elasticsearch.release(self.stack).version, "cores": os.cpu_count(), "machine": platform.machine(),
            "kernel": platform.release().split("-")[0],
        }  # fmt: skip

    def close(self) -> None:
        """Ends all that was started."""
        self.server.kill()
        self.server.wait()
        commands.down({"STACK": self.stack.name})

    def sql(self, statements: str, database: str = DATABASE) -> str:
        """As the administrator."""
        return postgres.psql(self.stack, statements, database=database)

    def open_session(self) -> subprocess.Popen:
        """The administrator's psql, to be told line by line."""
        command, env = postgres.psql_command(self.stack, DATABASE)
        return subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def of_tables(self, name: str, measures: str) -> list[float]:
        """Of a table `c`, or of the partitions that have its name, together."""
        told = self.sql(f"SELECT {measures} FROM pg_class AS c WHERE c.relkind = 'r' AND c.oid::regclass::text LIKE '{name}%'")
        return [float(measure) for measure in told.split("|")]

    def ask(self, path: str, body: object = None, timeout_s: float = 900) -> object:
        """Asks the stand-in; {} where it has no words. What it failed with is told."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.ports['aws']}/bench/{path}", data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=timeout_s) as answer:
                return json.loads(answer.read() or b"{}")
        except urllib.error.HTTPError as failure:
            raise Failure(f"bench/{path}: {failure.read().decode(errors='replace')}") from None

    def run_bench(self, *arguments) -> dict:
        """A command of the bench's own binary."""
        env = os.environ | {"DATABASE_URL": self.database_url, "ELASTICSEARCH_URL": self.stack.elasticsearch_url}
        done = subprocess.run([self.bench, *map(str, arguments)], env=env, capture_output=True, text=True)
        if done.returncode:
            raise Failure(f"bench {arguments[0]}: {done.stderr.strip()}")
        return json.loads(done.stdout)

    def environment(self, **more: str) -> dict[str, str]:
        """What a function is told, apart from what its bench changes."""
        aws = f"http://127.0.0.1:{self.ports['aws']}"
        return {
            "AWS_ENDPOINT_URL": aws, "AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x",
            "AWS_LAMBDA_FUNCTION_NAME": "bench", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "512", "AWS_LAMBDA_FUNCTION_VERSION": "1",
            "AWS_LAMBDA_LOG_GROUP_NAME": "bench", "AWS_LAMBDA_LOG_STREAM_NAME": "bench", "LOG_LEVEL": "warn",
            "DATABASE_SECRET_ARN": "functions", "DATABASE_SSLMODE": "disable", "ELASTICSEARCH_SECRET_ARN": "elasticsearch",
            "QUEUE_URL": f"{aws}/queue", "DEAD_LETTER_QUEUE_URL": f"{aws}/letters", "INDEX_PREFIX": PREFIX,
            "RE_READ_AFTER": "24h", **more,
        }  # fmt: skip

    def program(self, function: str | Path) -> Path:
        """One of ours by its name, or another's program."""
        return function if isinstance(function, Path) else self.binaries / function / "bootstrap"

    def start(self, function: str | Path, number: int, **more: str) -> subprocess.Popen:
        """A function, as the one of that number."""
        env = self.environment(**more) | {"AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{self.ports['runtimes'][number]}"}
        return subprocess.Popen([self.program(function)], env=env, stdout=subprocess.DEVNULL)

    @contextmanager
    def at_work(self, trigger: subprocess.Popen, indexers: list[subprocess.Popen]) -> Iterator[list[int]]:
        """Functions 0 and from 1 on, as EventBridge and an event source mapping have them; gives their pids, ends them."""
        self.ask("deliver", {"functions": list(range(1, len(indexers) + 1)), "until_empty": False})
        is_over = threading.Event()

        def schedule() -> None:
            while not is_over.is_set():
                try:
                    self.ask("invoke/0", {})
                except Failure as failure:  # the next one is not held up by it
                    say("trigger", f"failed: {failure}")
                    is_over.wait(1)

        scheduler = threading.Thread(target=schedule, daemon=True)
        scheduler.start()
        try:
            yield [function.pid for function in (trigger, *indexers)]
        finally:
            is_over.set()
            scheduler.join()
            self.ask("reset", {"keeps": False})
            for function in (trigger, *indexers):
                function.kill()
                function.wait()

    def migrate(self, **more: str) -> None:
        """Schema and indexes."""
        env = self.environment(DATABASE_SECRET_ARN="owner", **more)
        done = subprocess.run([self.binaries / "migrate" / "bootstrap"], env=env, capture_output=True, text=True)
        if done.returncode:
            raise Failure(f"migrate: {done.stderr.strip()}")

    def make_empty(self) -> None:
        """A database with nothing in it, and no index of an earlier one."""
        self.sql(f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)", "postgres")
        self.sql(f"DROP ROLE IF EXISTS sluice_app_{DATABASE}, sluice_capture_{DATABASE}", "postgres")
        self.sql(f"CREATE DATABASE {DATABASE} OWNER sluice_owner", "postgres")
        self.clear_index()

    def make_books(self, index: str) -> None:
        """The tables without Sluice, and an index for another."""
        self.make_empty()
        self.sql(BOOKS)
        self.make_index(index)

    def make_database(self, **more: str) -> None:
        """Empty but for Sluice."""
        self.make_empty()
        self.migrate(**more)
        self.sql("DO $$ BEGIN EXECUTE (SELECT format('GRANT %s TO sluice_functions', app) FROM sluice.roles); END $$")
        self.sql("SET ROLE sluice_owner; SELECT sluice.drop_stream('sluice_heartbeat')")  # it would be counted

    def clear_index(self) -> None:
        """Deletes what earlier runs wrote."""
        for index in self.search("GET", f"_cat/indices/{PREFIX}*?h=index&format=json&expand_wildcards=all"):
            self.search("DELETE", index["index"])

    def make_index(self, name: str) -> None:
        """As `migrate` makes its own, but that others may add fields."""
        self.search("PUT", name, {"settings": {"gc_deletes": "1h"}, "mappings": json.loads(MAPPING)})

    def search(self, method: str, path: str, body: object = None) -> object:
        """A request to Elasticsearch."""
        url, user, password = search.split_credentials(self.stack.elasticsearch_url)
        manager = urllib.request.HTTPPasswordMgrWithPriorAuth()
        manager.add_password(None, url, user, password, is_authenticated=True)
        opener = urllib.request.build_opener(urllib.request.HTTPBasicAuthHandler(manager))
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{url}/{path}", data, {"Content-Type": "application/json"}, method=method)
        with opener.open(request, timeout=60) as answer:
            return json.loads(answer.read() or b"{}")

    def cpu_of(self, server) -> float:
        """Seconds of CPU that a server of the stack has used: its processes' and those of its children that are gone."""
        found = {one.pid for one in process.find_all(self.stack, server.NAME)}
        # PostgreSQL's backends have written their titles over the environment by which processes are found.
        children = {int(child) for pid in found for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}
        return sum(cpu_s(pid) for pid in found | children)


def cpu_s(pid: int) -> float:
    """Seconds of CPU that a process has used, its ended children's included."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return 0
    return sum(map(int, fields[11:15])) / TICKS


def peak_mb(pid: int) -> float:
    """The most memory that a process ever held."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")) * 1024 / 1e6
