"""The Lambda Runtime API of one execution environment (docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html)."""

import json
import queue
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Invocation:
    """What the function gets for its `next`."""

    payload: bytes
    headers: dict[str, str]


@dataclass(frozen=True)
class Event:
    """What the function, or its process, did: `ready`, `init_error`, `response`, `error` or `exit`."""

    kind: str
    request_id: str = ""
    body: bytes = b""


@dataclass
class RuntimeApi:
    """A server on a free port of 127.0.0.1. Invocations go in, events come out."""

    invocations: queue.Queue[Invocation | None] = field(default_factory=queue.Queue)
    events: queue.Queue[Event] = field(default_factory=queue.Queue)

    def __post_init__(self):
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads, self._server.block_on_close, self._server.api = True, False, self
        self.address = f"127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        self._server.serve_forever(poll_interval=0.1)
        self._server.server_close()

    def close(self) -> None:
        """Ends the server, and the `next` that an idle function waits in."""
        self.invocations.put(None)
        threading.Thread(target=self._server.shutdown, daemon=True).start()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # A reply is one packet, sent at once: two would wait 40 ms for each other's acknowledgement.
    disable_nagle_algorithm, wbufsize = True, -1

    def do_GET(self):
        if self.path != "/2018-06-01/runtime/invocation/next":
            return self._reply(404)
        api = self.server.api
        api.events.put(Event("ready"))
        invocation = api.invocations.get()
        if invocation is None:
            self.close_connection = True
        else:
            self._reply(200, invocation.payload, invocation.headers)

    def do_POST(self):
        body, stream_error = self._read_body()
        match self.path.removeprefix("/2018-06-01/runtime/").split("/"):
            case ["init", "error"]:
                event = Event("init_error", body=body)
            case ["invocation", request_id, "response" | "error" as kind]:
                event = Event("error", request_id, stream_error) if stream_error else Event(kind, request_id, body)
            case _:
                return self._reply(404)
        self.server.api.events.put(event)
        self._reply(202, b'{"status":"OK"}')

    def _read_body(self) -> tuple[bytes, bytes]:
        """The body, and the error by which a streamed one says in its trailers that it is incomplete."""
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0))), b""
        chunks, error = [], b""
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        while trailer := self.rfile.readline().strip().decode():
            name, _, value = trailer.partition(":")
            if name.lower() == "lambda-runtime-function-error-type":
                error = error_json(value.strip(), "the response stream was not finished")
        return b"".join(chunks), error

    def _reply(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None):
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Type": "application/json", "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        """Silent: LocalStack's log tells of invocations."""


def error_json(kind: str, message: str) -> bytes:
    """An error in the shape that Lambda gives to callers."""
    return json.dumps({"errorType": kind, "errorMessage": message}).encode()
