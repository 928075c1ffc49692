"""What Elasticsearch and OpenSearch have in common: where they come from, their configuration, and what they say over HTTP."""

import base64
import json
import os
import re
import shutil
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

import process
from console import Failure, say
from download import maven_artifact, unpack
from java import find_java
from layout import ELASTICSEARCH_PORT, SERVERS, TRANSPORT_PORT, Stack, lock

HEAP = "512m"  # 256m is enough to start, and too little for bulk requests of 5 MiB side by side
HEALTH = "/_cluster/health?wait_for_status=yellow&timeout=1s"  # a master, and all indexes


@dataclass(frozen=True)
class Release:
    """Where a version comes from, and the Java that it wants."""

    version: str
    artifact: str
    member: str  # the folder in the zip
    sha512: str
    java: int
    java_below: int | None = None

    @property
    def java_in_words(self) -> str:
        """To be told where it is missing."""
        return f"Java {self.java} " + (f"to {self.java_below - 1}" if self.java_below else "or newer") + (" (a JDK)" if self.java >= 21 else "")

    def find_java(self) -> Path | None:
        """A Java home that it runs on, if this machine has one."""
        return find_java(self.java, self.java_below)


def ports(title: str) -> dict[str, int]:
    """The same ones for both: a stack has one of them."""
    return {title: ELASTICSEARCH_PORT, f"{title} (transport)": TRANSPORT_PORT}


def install(stack: Stack, name: str, wanted: Release, modules: set[str]) -> Path:
    """The server's home, downloaded, and with no other modules than these."""
    home = SERVERS / f"{name}-{wanted.version}"
    with lock(SERVERS / name, f"installing {name}"):
        if not home.exists():
            archive = maven_artifact(name, wanted.artifact, "zip", wanted.sha512, stack.facts.get("maven_repository"))
            say(name, f"unpacking {wanted.version}")
            scratch = home.with_name(home.name + ".new")
            shutil.rmtree(scratch, ignore_errors=True)
            unpack(archive, scratch, below=wanted.member)
            for module in (scratch / "modules").iterdir():
                if module.name not in modules:
                    shutil.rmtree(module)
            (scratch / "plugins").mkdir(exist_ok=True)  # an empty folder, without which OpenSearch does not start
            scratch.rename(home)
    return home


def write_config(stack: Stack, name: str, home: Path, own: dict[str, str]) -> Path:
    """The server's folder in the stack, with its configuration: what both have, and its `own` settings."""
    folder = process.own_folder(stack.folder / name)
    config = folder / "config"
    for part in (config, folder / "data", folder / "logs", folder / "tmp"):
        process.own_folder(part)
    shutil.copytree(home / "config", config, dirs_exist_ok=True)
    options = config / "jvm.options"  # what it says of logs and dumps is relative to the home, which is not ours to write
    relative = re.compile(r"([\d-]+:)?(-Xlog:gc|-XX:(HeapDumpPath|ErrorFile))")
    options.write_text("".join(line for line in options.read_text().splitlines(keepends=True) if not relative.match(line)))
    settings = {
        "cluster.name": f"sluice-{stack.name}",
        "node.name": "one",
        "network.host": "127.0.0.1",
        "http.port": stack.port(ELASTICSEARCH_PORT),
        "transport.port": stack.port(TRANSPORT_PORT),
        "discovery.type": "single-node",
        "path.data": folder / "data",
        "path.logs": folder / "logs",
        "cluster.routing.allocation.disk.threshold_enabled": "false",  # a full disk of a laptop is not our test
        **own,
    }
    (config / f"{name}.yml").write_text("".join(f"{setting}: {value}\n" for setting, value in settings.items()))
    if os.geteuid() == 0:
        for path in (config, *config.rglob("*")):
            os.chown(path, process.SERVER_USER, process.SERVER_USER)
    return folder


def split_credentials(url: str) -> tuple[str, str, str]:
    """A URL without its credentials, the user name and the password (empty: none)."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Failure("USE_ELASTICSEARCH should look like http://user:password@host:9200")
    bare = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), "", ""))
    return bare, unquote(parts.username or ""), unquote(parts.password or "")


def is_healthy(stack: Stack) -> bool:
    """True when the node has a master and all its indexes are there."""
    return get(stack.elasticsearch_url, HEALTH) is not None


def get(url: str, path: str, explain: bool = False) -> dict | None:
    """A GET's answer; when it fails None, or with `explain` a Failure that says why."""
    bare, user, password = split_credentials(url)
    request = urllib.request.Request(bare + path)
    if user:
        request.add_header("Authorization", "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode())
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10) as answer:
            return json.load(answer)
    except (OSError, ValueError) as error:
        if explain:
            raise Failure(f"USE_ELASTICSEARCH: {bare} does not answer as Elasticsearch or OpenSearch does: {error}") from error
        return None
