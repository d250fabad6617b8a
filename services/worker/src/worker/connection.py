"""One HTTP/1.1 connection of the socket transport: bytes out, bytes in, heads and lines cut from them.

Everything that can go wrong is an httpx.TransportError of the kind that the stock transport raises.
"""

from __future__ import annotations

import select
import socket
import time
from collections import deque
from collections.abc import Sequence
from typing import Final, NoReturn, TypeAlias

import httpx
from roundtable.types import Seconds

Origin: TypeAlias = tuple[str, int]
Headers: TypeAlias = list[tuple[bytes, bytes]]

IDLE: Final[Seconds] = 4.0  # a connection unused for longer is not used again: uvicorn closes its own after 5
_SCRATCH: Final = 64 * 1024
_HEAD_LIMIT: Final = 64 * 1024
_LINE_LIMIT: Final = 4 * 1024
_PARTS: Final = 512  # buffers given to one sendmsg; the kernel takes at most 1024

_SILENT: Final = 20  # seconds

# A connection whose other end has gone without a word (Wi-Fi lost, an address that changed) ends after some
# 20 s, not when the answer to an update is overdue: what was sent is not acknowledged, or nobody answers a
# keep-alive probe.
SOCKET_OPTIONS: Final[list[tuple[int, int, int]]] = [
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *(
        (socket.IPPROTO_TCP, getattr(socket, name), value)
        for name, value in (
            ("TCP_KEEPIDLE", _SILENT // 2),
            ("TCP_KEEPINTVL", _SILENT // 4),
            ("TCP_KEEPCNT", 2),
            ("TCP_USER_TIMEOUT", _SILENT * 1000),
        )
        if hasattr(socket, name)
    ),
]


class Connection:
    """A socket, and the bytes read from it that nobody has used yet. Raises httpx.TransportError."""

    def __init__(self, origin: Origin, timeout: Seconds | None) -> None:
        self.origin = origin
        self.since = time.monotonic()
        try:
            self._socket = socket.create_connection(origin, timeout)
        except TimeoutError as error:
            raise httpx.ConnectTimeout(str(error)) from error
        except OSError as error:
            raise httpx.ConnectError(str(error)) from error
        for level, option, value in SOCKET_OPTIONS:
            self._socket.setsockopt(level, option, value)
        self._scratch = memoryview(bytearray(_SCRATCH))
        self._begin = self._end = 0  # of what is unused in it

    def close(self) -> None:
        self._socket.close()

    def timeout(self, seconds: Seconds | None) -> None:
        self._socket.settimeout(seconds)

    def usable(self) -> bool:
        """Not idle for too long, and nothing to read: neither the end of the connection nor an answer to
        nothing."""
        if time.monotonic() - self.since > IDLE or self._begin < self._end:
            return False
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return not poll.poll(0)

    def send(self, buffers: Sequence[bytes | memoryview]) -> None:
        parts = deque(view for buffer in buffers if len(view := memoryview(buffer).cast("B")))
        try:
            while parts:
                sent = self._socket.sendmsg([parts[at] for at in range(min(len(parts), _PARTS))])
                while sent:
                    first = parts.popleft()
                    if sent < len(first):
                        parts.appendleft(first[sent:])
                    sent -= min(sent, len(first))
        except TimeoutError as error:
            raise httpx.WriteTimeout(str(error)) from error
        except OSError as error:
            raise httpx.WriteError(str(error)) from error

    def read_head(self) -> tuple[int, Headers, bytes]:
        """Status, headers and version of the reply, past any that only announce it (1xx)."""
        while True:
            lines = self._until(b"\r\n\r\n", _HEAD_LIMIT).split(b"\r\n")
            version, _, rest = lines[0].partition(b" ")
            code = rest[:3]
            if version not in (b"HTTP/1.1", b"HTTP/1.0") or not code.isdigit() or len(code) < 3:
                malformed(f"{lines[0][:80]!r} is no HTTP/1.1 status line")
            if not code.startswith(b"1"):
                return int(code), [_field(line) for line in lines[1:]], version

    def read_line(self) -> bytes:
        return self._until(b"\r\n", _LINE_LIMIT)

    def fill(self, view: memoryview) -> None:
        """Exactly as many bytes as `view` has room for."""
        at = min(len(view), self._end - self._begin)
        view[:at] = self._scratch[self._begin : self._begin + at]
        self._begin += at
        while at < len(view):
            at += self._receive(view[at:]) or cut_short()

    def some(self, most: int = _SCRATCH) -> bytes:
        """At least one byte and at most `most` of them; nothing at the end of the connection."""
        if self._begin == self._end:
            self._begin, self._end = 0, self._receive(self._scratch)
        piece = bytes(self._scratch[self._begin : min(self._end, self._begin + most)])
        self._begin += len(piece)
        return piece

    def _until(self, mark: bytes, limit: int) -> bytes:
        found = bytearray()
        while (at := found.find(mark)) < 0:
            if len(found) > limit:
                malformed(f"a head or line of more than {limit} bytes")
            piece = self.some()
            found += piece or cut_short()
        self._begin -= len(found) - at - len(mark)  # what follows the mark is still in the scratch
        return bytes(found[:at])

    def _receive(self, view: memoryview) -> int:
        try:
            return self._socket.recv_into(view)
        except TimeoutError as error:
            raise httpx.ReadTimeout(str(error)) from error
        except OSError as error:
            raise httpx.ReadError(str(error)) from error


def _field(line: bytes) -> tuple[bytes, bytes]:
    name, colon, value = line.partition(b":")
    if not colon or not name or name != name.strip():
        malformed(f"{line[:80]!r} is no header")
    return name, value.strip(b" \t")


def malformed(found: str) -> NoReturn:
    raise httpx.RemoteProtocolError(f"the reply is not HTTP/1.1 as it should be: {found}")


def cut_short() -> NoReturn:
    raise httpx.RemoteProtocolError("the connection ended before the reply did")
