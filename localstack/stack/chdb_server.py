"""ClickHouse's HTTP interface on top of chDB, as far as tests need it: chdb_server.py PORT FOLDER, and CHDB_PASSWORD.

A statement comes as `query`, as the body, or as both: then the body is the data of an INSERT. Statements run one at a time. Beside
them it knows `database`, `default_format`, settings and `param_…`, three ways to say who asks, and ClickHouse's frames of compressed
data (`decompress=1` for the body, `compress=1` for the answer). It has one user, no sessions, and takes several statements at once.
"""

import base64
import os
import re
import struct
import sys
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import lz4.block
from chdb.session import Session
from clickhouse_cityhash.cityhash import CityHash128

USER = "sluice"
# What is said in the URL and is no setting.
RESERVED = {"query", "database", "default_format", "user", "password", "compress", "decompress", "query_id", "session_id", "session_timeout",
            "session_check", "close_session", "quota_key", "role", "stacktrace", "buffer_size", "wait_end_of_query", "client_protocol_version"}  # fmt: skip
# ClickHouse's status for an exception, by its name.
BAD_REQUEST = {"BAD_ARGUMENTS", "DUPLICATE_COLUMN", "ILLEGAL_COLUMN", "INCORRECT_DATA", "SYNTAX_ERROR", "THERE_IS_NO_COLUMN", "TYPE_MISMATCH",
               "UNKNOWN_ELEMENT_IN_AST", "VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE"}  # fmt: skip
STATUSES = {"AUTHENTICATION_FAILED": 403, "NOT_IMPLEMENTED": 501, "TIMEOUT_EXCEEDED": 408} | dict.fromkeys(BAD_REQUEST, 400)
# Where the file with the data is named: before the settings, which are before the format.
FORMAT_OF_INSERT = re.compile(rb"(?=(?:\sSETTINGS\s.*)?\sFORMAT\s+\w+[\s;]*$)", re.I | re.S)
LZ4, PLAIN = 0x82, 0x02
FRAME = 1 << 20


class Refused(Exception):
    """As ClickHouse says it."""

    def __init__(self, code: int, name: str, words: str):
        super().__init__(f"Code: {code}. DB::Exception: {words} ({name})")


class Engine:
    """One session, which is one connection: whoever uses it sets it up for the statement."""

    def __init__(self, folder: Path):
        self.folder, self.lock = folder, threading.Lock()
        self.session = Session(str(folder / "data"))
        self._run("SET implicit_select = 0")  # the library takes `1` for a statement, a server does not

    def execute(self, given: dict[str, str], body: bytes) -> bytes:
        """A statement's result; a Refused, or the library's own error."""
        settings = {name: value for name, value in given.items() if name not in RESERVED}
        if wrong := [name for name in settings if not re.fullmatch(r"\w+", name)]:
            raise Refused(115, "UNKNOWN_SETTING", f"Unknown setting '{wrong[0]}'")
        with self.lock, tempfile.NamedTemporaryFile(dir=self.folder) as data:
            self._run(f"USE `{given.get('database') or 'default'}`")
            try:
                for name, value in settings.items():
                    self._run(f"SET {name} = {_quoted(value)}")
                return self._run(_with_data(given.get("query", "").encode(), body, data), given.get("default_format", "TabSeparated"))
            finally:
                for name in settings:
                    if not name.startswith("param_"):
                        self._reset(name)

    def _reset(self, name: str) -> None:
        try:
            self._run(f"SET {name} = DEFAULT")
        except RuntimeError:  # there is no such setting, which was the error
            pass

    def _run(self, statement: str | bytes, answer_format: str = "TabSeparated") -> bytes:
        return self.session.query(statement, answer_format).bytes()


def _quoted(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _with_data(query: bytes, body: bytes, data) -> bytes:
    """The statement. Data of an INSERT is put into a file, where it may be binary or empty."""
    if re.match(rb"\s*INSERT\b", query, re.I) and (place := FORMAT_OF_INSERT.search(query)):
        data.write(body)
        data.flush()
        return b" FROM INFILE ".join([query[: place.start()], _quoted(data.name).encode() + query[place.start() :]])
    return query + b"\n" * bool(query) + body


def unpack(frames: bytes) -> Iterator[bytes]:
    """ClickHouse's frames: a checksum, then how it is compressed, the sizes with this header and without compression, and the data."""
    while frames:
        if len(frames) < 25:
            raise Refused(33, "CANNOT_READ_ALL_DATA", f"Cannot read all data. Bytes read: {len(frames)}. Bytes expected: 25.")
        method, size, original = struct.unpack_from("<BII", frames, 16)
        if len(frames) < 16 + size or frames[:16] != checksum(frames[16 : 16 + size]):
            raise Refused(40, "CHECKSUM_DOESNT_MATCH", "Checksum doesn't match: corrupted data.")
        if method not in (LZ4, PLAIN):
            raise Refused(89, "UNKNOWN_COMPRESSION_METHOD", f"Unknown codec {method}: this stand-in has LZ4")
        data, frames = frames[25 : 16 + size], frames[16 + size :]
        yield data if method == PLAIN else lz4.block.decompress(data, uncompressed_size=original)


def pack(data: bytes) -> Iterator[bytes]:
    """The same, written."""
    for start in range(0, len(data), FRAME):
        part = data[start : start + FRAME]
        compressed = lz4.block.compress(part, store_size=False)
        frame = struct.pack("<BII", LZ4, len(compressed) + 9, len(part)) + compressed
        yield checksum(frame) + frame


def checksum(frame: bytes) -> bytes:
    """The two halves of CityHash128, each with its lowest byte first."""
    whole = CityHash128(frame).to_bytes(16, "little")
    return whole[8:] + whole[:8]


class Handler(BaseHTTPRequestHandler):
    """A request."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    engine: Engine
    password: str

    def do_GET(self) -> None:
        if urlsplit(self.path).path == "/ping":
            return self._answer(200, b"Ok.\n")
        return self.do_POST()

    def do_POST(self) -> None:
        try:
            given, body = dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True)), self._body()
            if encoding := self.headers.get("Content-Encoding"):
                raise Refused(36, "BAD_ARGUMENTS", f"Content-Encoding {encoding}: this stand-in has `decompress=1` alone")
            if self._credentials(given) != (USER, self.password):
                raise Refused(516, "AUTHENTICATION_FAILED", "Authentication failed: password is incorrect, or there is no user with such name.")
            if given.get("decompress") == "1":
                body = b"".join(unpack(body))
            result = self.engine.execute(given, body)
            self._answer(200, b"".join(pack(result)) if given.get("compress") == "1" else result)
        except ConnectionError:
            self.close_connection = True
        except (Refused, RuntimeError, lz4.block.LZ4BlockError) as error:
            self._fail(str(error))

    def _body(self) -> bytes:
        """All of it. One that breaks off is no statement: the connection ends with it."""
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self._exactly(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self._line(), 16):
            parts.append(self._exactly(size))
            self._line()
        while self._line():
            pass
        return b"".join(parts)

    def _exactly(self, size: int) -> bytes:
        data = self.rfile.read(size)
        if len(data) < size:
            raise ConnectionError("the body ends too early")
        return data

    def _line(self) -> bytes:
        line = self.rfile.readline()
        if not line:
            raise ConnectionError("the body ends too early")
        return line.strip()

    def _credentials(self, given: dict[str, str]) -> tuple[str, str]:
        kind, _, value = self.headers.get("Authorization", "").partition(" ")
        if kind.lower() == "basic":
            user, _, password = base64.b64decode(value).decode().partition(":")
            return user, password
        if user := self.headers.get("X-ClickHouse-User"):
            return user, self.headers.get("X-ClickHouse-Key", "")
        return given.get("user", "default"), given.get("password", "")

    def _fail(self, words: str) -> None:
        code = re.match(r"Code: (\d+)", words)
        names = re.findall(r"\(([A-Z_]+)\)", words)
        name = names[-1] if names else ""
        status = STATUSES.get(name) or (400 if name.startswith("CANNOT_PARSE_") else 404 if name.startswith("UNKNOWN_") else 500)
        print(f"{status} {words}", flush=True)
        self._answer(status, words.encode() + b"\n", {"X-ClickHouse-Exception-Code": code[1] if code else "1002"})

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "text/plain; charset=UTF-8", "Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_) -> None:
        """A request's line has the password, if it is said there. Errors are logged where they occur."""


def main() -> None:
    """Serves until it is ended."""
    port, folder = int(sys.argv[1]), Path(sys.argv[2])
    Handler.engine, Handler.password = Engine(folder), os.environ["CHDB_PASSWORD"]
    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


main()
