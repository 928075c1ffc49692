"""Where everything of a stack is: folders, ports, passwords. Nothing lives in the work tree but what is built for a deploy."""

import fcntl
import json
import os
import re
import secrets
import shutil
import zlib
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from urllib.parse import quote

from console import Failure, say

REPOSITORY = Path(__file__).resolve().parents[2]
CACHE = Path(
    os.environ.get("SLUICE_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sluice"
).absolute()
DOWNLOADS = CACHE / "downloads"
TARGET = Path(os.environ.get("CARGO_TARGET_DIR") or CACHE / "target")
SERVER_USER = 65534  # nobody: PostgreSQL and the search servers refuse to run as root


def _shared_root() -> Path:
    """The folder that the servers can reach. Started by root they run as nobody, whom root's own home keeps out."""
    closed = any(folder.exists() and not folder.stat().st_mode & 0o001 for folder in (CACHE, *CACHE.parents))
    return Path("/var/cache/sluice") if os.geteuid() == 0 and closed else CACHE


SHARED = _shared_root()
SERVERS = SHARED / "servers"

# First port of each server; a stack's slot is added. Below 32768, where the kernel picks ports for clients.
POSTGRES_PORT, ELASTICSEARCH_PORT, TRANSPORT_PORT, LOCALSTACK_PORT, KIBANA_PORT = 15432, 19200, 19400, 4566, 5601
CLICKHOUSE_PORT, CLICKHOUSE_NATIVE_PORT, KAFKA_PORT, KAFKA_SASL_PORT, KAFKA_CONTROLLER_PORT = 18123, 19000, 29092, 29192, 29292
CHDB_PORT, KAFKA_TLS_PORT = 18223, 29392
MONGODB_PORT, MONGODB_TLS_PORT = 29492, 29592
SLUICE_PORT, SLUICE_HEALTH_PORT, SLUICE_SYNC_PORT, BOARD_PORT = 18323, 18423, 18523, 18623
SLOTS = 100
FIXED_SLOTS = {"default": 0, "test": 1}
ROLES = ("postgres", "sluice_owner", "sluice_functions", "app", "elastic", "operator", "reader", "clickhouse", "kafka", "chdb")


class Stack:
    """One stack, by name. What it must remember is in its `stack.json`; the rest follows from the name."""

    def __init__(self, name: str):
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,30}", name):
            raise Failure(f"STACK={name} is no name: use up to 31 small letters, digits and dashes")
        self.name = name
        self.folder = SHARED / "stacks" / name
        self.file = self.folder / "stack.json"
        self.facts = json.loads(self.file.read_text()) if self.file.exists() else {}

    @property
    def exists(self) -> bool:
        """True once `up` has been here and `clean` has not."""
        return "slot" in self.facts

    @property
    def is_for_tests(self) -> bool:
        """Its data is thrown away, so it may be quick instead of durable."""
        return self.name in ("test", "test-faults", "test-oldest", "test-direct", "test-queue", "test-opensearch")

    @property
    def targets(self) -> list[str]:
        """The names of the servers that it has beside those that every stack has."""
        return [name for name in self.facts.get("targets", "").split(",") if name]

    @property
    def search(self) -> str:
        """Which search server it was made with, `elasticsearch` or `opensearch`."""
        return self.facts.get("search", "elasticsearch")

    @property
    def run(self) -> str:
        """How the process `sluice` runs in place of the deployed functions, `direct` or `queue`; empty: it does not."""
        return self.facts.get("run", "")

    def plan(self) -> None:
        """Chooses ports and passwords, once; `remember` makes it lasting."""
        if not self.exists:
            self.facts["slot"] = self._free_slot()
        known = self.facts.get("passwords", {})
        self.facts["passwords"] = {role: known.get(role) or secrets.token_urlsafe(18) for role in ROLES}

    def remember(self, **facts) -> None:
        """Keeps facts for the next command."""
        self.facts.update(facts)
        scratch = self.file.with_suffix(".new")
        scratch.touch(0o600)
        scratch.write_text(json.dumps(self.facts, indent=2))
        scratch.replace(self.file)

    def remove(self) -> None:
        """Deletes the stack's folder: data, logs, certificates and passwords. It is moved away first, so that an interruption
        leaves no half of a stack in its place."""
        gone = SHARED / "gone" / self.name
        shutil.rmtree(gone, ignore_errors=True)
        if self.folder.exists():
            gone.parent.mkdir(exist_ok=True)
            self.folder.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)
        self.facts = {}

    def _free_slot(self) -> int:
        if self.name in FIXED_SLOTS:
            return FIXED_SLOTS[self.name]
        taken = set(FIXED_SLOTS.values())
        for file in self.folder.parent.glob("*/stack.json"):
            taken.add(json.loads(file.read_text())["slot"])
        first = zlib.crc32(self.name.encode())
        for step in range(SLOTS):
            if (slot := (first + step) % SLOTS) not in taken:
                return slot
        raise Failure(f"{SLOTS} stacks are enough; remove one: make clean STACK=…")

    def port(self, first: int) -> int:
        """The stack's own port in the range that starts at `first`."""
        return first + self.facts["slot"]

    def password(self, role: str) -> str:
        """The password of a role of PostgreSQL, or of Elasticsearch's user `elastic`; the token of a role of the admin function; for
        a target the password of its user `sluice`."""
        return self.facts["passwords"][role]

    @property
    def argument(self) -> str:
        """What to add to a `make` command that is printed as a remedy."""
        return "" if self.name == "default" else f" STACK={self.name}"

    @property
    def database_url(self) -> str:
        """The administrator's URL, password included."""
        if given := self.facts.get("use_database"):
            return given
        return f"postgres://postgres:{quote(self.password('postgres'))}@127.0.0.1:{self.port(POSTGRES_PORT)}/sluice"

    @property
    def elasticsearch_url(self) -> str:
        """Credentials included, if it has any. Of OpenSearch, too, which is reached in the same way."""
        if given := self.facts.get("use_elasticsearch"):
            return given
        if self.search == "opensearch":  # the build has no security
            return f"http://127.0.0.1:{self.port(ELASTICSEARCH_PORT)}"
        return f"http://elastic:{quote(self.password('elastic'))}@127.0.0.1:{self.port(ELASTICSEARCH_PORT)}"

    @property
    def aws_url(self) -> str:
        """LocalStack's endpoint."""
        return f"http://127.0.0.1:{self.port(LOCALSTACK_PORT)}"

    @property
    def tls(self) -> Path:
        """A private authority (`ca.pem`), and a certificate of it for the database (`server.pem`, `server.key`)."""
        return self.folder / "tls"

    @property
    def outputs_file(self) -> Path:
        """What the last deploy made: queue URLs, function names, secrets' ARNs."""
        return self.folder / "localstack" / "outputs.json"


_locks: dict[str, Lock] = {}  # for the threads of this command: nobody needs to know that one waits for another


@contextmanager
def lock(folder: Path, words: str):
    """One command at a time, however many are started; waits for the other and says so."""
    folder.mkdir(parents=True, exist_ok=True)
    with _locks.setdefault(str(folder), Lock()), (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("stack", f"another command is busy with {words}; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
