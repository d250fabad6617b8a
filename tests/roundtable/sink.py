"""A server that takes points like an InfluxDB, for tests of whoever sends them."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Sink:
    """Takes points like an InfluxDB; `behave` may answer otherwise."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.arrived = threading.Condition()
        self.behave: Callable[[], int] = lambda: 204
        sink = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"])).decode()
                status = sink.behave()
                if status == 204:
                    with sink.arrived:
                        sink.lines += body.split("\n")
                        sink.arrived.notify_all()
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def wait_for(self, pattern: str, count: int = 1, seconds: float = 10.0) -> list[str]:
        found: list[str] = []

        def enough() -> bool:
            found[:] = [line for line in self.lines if re.search(pattern, line)]
            return len(found) >= count

        with self.arrived:
            assert self.arrived.wait_for(enough, seconds), self.lines
        return found

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()
