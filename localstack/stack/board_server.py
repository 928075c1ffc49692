"""Serves the files of a folder: board_server.py PORT FOLDER SYNC_URL. Nothing else may be loaded, and only live sync be asked."""

import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

port, folder, sync_url = sys.argv[1:]
POLICY = f"default-src 'self'; img-src data:; connect-src {sync_url} {sync_url.replace('http', 'ws', 1)}; frame-ancestors 'none'; base-uri 'none'"


class Handler(SimpleHTTPRequestHandler):
    """Files as they are now: a page that is built anew has scripts of the same names."""

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "no-cache")
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        super().end_headers()


ThreadingHTTPServer(("127.0.0.1", int(port)), partial(Handler, directory=folder)).serve_forever()
