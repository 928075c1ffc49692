"""Debezium's embedded engine, with one of three targets behind it."""

import base64
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import postgres
import search
from console import Failure, run
from java import find_java
from layout import CACHE, lock
from peers import NotRun, Running
from peers.slot import follow
from world import DATABASE, PREFIX, World

HERE = Path(__file__).parent
VERSION = re.search(r"<debezium.version>(.+)</", (HERE / "pom.xml").read_text())[1]
INDEX = f"{PREFIX}debezium"
SLOT = "debezium"


def install() -> str:
    """The classpath of what Maven made of it, made anew only when its sources have changed."""
    home = CACHE / "peers" / f"debezium-{VERSION}"
    made, sources = home / "made-of", "".join(file.read_text() for file in sorted([HERE / "pom.xml", *HERE.glob("*.java")]))
    with lock(home.parent, "building Debezium"):
        if not made.exists() or made.read_text() != sources:
            if not shutil.which("mvn"):
                raise NotRun("Maven is missing: apt-get install -y maven")
            command = ["mvn", "-q", "-B", "-f", HERE, f"-Dinto={home}", "compile", "dependency:copy-dependencies"]
            try:
                run("debezium", f"building with Debezium {VERSION} from Maven Central", command, home.with_suffix(".log"))
            except Failure as error:
                raise NotRun(str(error)) from error
            made.write_text(sources)
    return f"{home}/classes:{home}/dependency/*"


@contextmanager
def engine(world: World, table: str, properties: dict[str, object], **env: str) -> Iterator[subprocess.Popen]:
    """Follows a table, and brings it to where `env` says; for some targets with properties of their own."""
    classpath = install()
    connection = postgres.connection(world.database_url)
    with tempfile.TemporaryDirectory() as folder:
        own = properties | {
            "database.hostname": connection["PGHOST"], "database.port": connection["PGPORT"], "database.dbname": DATABASE,
            "database.user": connection["PGUSER"], "database.password": connection["PGPASSWORD"],
            "table.include.list": table, "column.exclude.list": f"{table}.author", "offset.storage.file.filename": f"{folder}/offsets",
        }  # fmt: skip
        file = Path(folder, "properties")
        file.write_text((HERE / "debezium.properties").read_text() + "".join(f"{name}={value}\n" for name, value in own.items()))
        # With twice the heap it was no faster.
        command = [find_java(17) / "bin" / "java", "-Xmx256m", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"]
        command += ["-cp", classpath, "Pipeline", file]
        try:
            with follow(world, SLOT, command, os.environ | env, Path(folder)) as started:
                yield started
        finally:
            world.sql("DROP PUBLICATION IF EXISTS debezium")


@contextmanager
def pipeline(world: World) -> Iterator[Running]:
    """From the table to its index."""
    install()
    world.make_books(INDEX)
    url, user, password = search.split_credentials(world.stack.elasticsearch_url)
    authorization = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
    with engine(world, "demo.book", {}, TARGET="elasticsearch", INDEX_URL=f"{url}/{INDEX}", AUTHORIZATION=authorization) as started:
        yield Running(INDEX, [started.pid])
