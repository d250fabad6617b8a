"""A wire that remembers: between workers and their aggregator, every byte that crosses it, by direction."""

from __future__ import annotations

import re
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass
class Recorder:
    """Listens at `url` and passes on to `target`. `up`: what workers sent, one buffer a connection."""

    target: str
    up: list[bytearray] = field(default_factory=list)
    down: list[bytearray] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    @property
    def requests(self) -> list[tuple[str, str, bytes]]:
        """(method, path, body) of each request that was sent whole."""
        found = []
        for buffer in self.up:
            rest = bytes(buffer)
            while head := re.match(rb"([A-Z]+) (\S+) HTTP/1\.1\r\n(.*?\r\n)\r\n", rest, re.S):
                length = re.search(rb"(?im)^content-length: *(\d+)", head[3])
                body = rest[head.end() : head.end() + int(length[1] if length else 0)]
                found.append((head[1].decode(), head[2].decode(), body))
                rest = rest[head.end() + len(body) :]
            assert not rest, f"what is this: {rest[:80]!r}"
        return found

    def _accept(self) -> None:
        parts = urlsplit(self.target)
        with suppress(OSError):  # closed
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection((parts.hostname or "", parts.port or 80))
                for source, sink, kept in ((near, far, self.up), (far, near, self.down)):
                    kept.append(bytearray())
                    threading.Thread(target=_pass_on, args=(source, sink, kept[-1]), daemon=True).start()


def _pass_on(source: socket.socket, sink: socket.socket, kept: bytearray) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            kept += data
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
