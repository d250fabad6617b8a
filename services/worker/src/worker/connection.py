"""One HTTP/1.1 connection of the socket transport: bytes out, bytes in, heads and lines cut from them.

Everything that can go wrong is an httpx.TransportError of the kind that the stock transport raises.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Sequence
from typing import Final, NamedTuple, NoReturn, TypeAlias

import httpx
from roundtable.types import Seconds

Origin: TypeAlias = tuple[str, int]
Headers: TypeAlias = list[tuple[bytes, bytes]]

IDLE: Final[Seconds] = 4.0  # a connection unused for longer is not used again: uvicorn closes its own after 5
_SCRATCH: Final = 64 * 1024  # bytes; no head or line of a reply may be longer
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


class Head(NamedTuple):
    """A reply's; `fields` are its headers by their names in lower case."""

    status: int
    version: bytes
    headers: Headers
    fields: dict[bytes, bytes]


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
        self._readable = select.poll()
        self._readable.register(self._socket, select.POLLIN)
        self._memory = bytearray(_SCRATCH)
        self._scratch = memoryview(self._memory)
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
        return not self._readable.poll(0)

    def send(self, buffers: Sequence[bytes | memoryview]) -> None:
        left = sum(map(len, buffers))
        try:
            while left:
                sent = self._socket.sendmsg(buffers[:_PARTS])
                left -= sent
                if left:
                    buffers = _unsent(buffers, sent)
        except TimeoutError as error:
            raise httpx.WriteTimeout(str(error)) from error
        except OSError as error:
            raise httpx.WriteError(str(error)) from error

    def read_head(self) -> Head:
        """That of the reply, past any that only announce it (1xx)."""
        while True:
            first, *lines = self._until(b"\r\n\r\n").split(b"\r\n")
            version, _, rest = first.partition(b" ")
            code = rest[:3]
            if version not in (b"HTTP/1.1", b"HTTP/1.0") or not code.isdigit() or len(code) < 3:
                malformed(f"{first[:80]!r} is no HTTP/1.1 status line")
            if not code.startswith(b"1"):
                return Head(int(code), version, *_headers(lines))

    def read_line(self) -> bytes:
        return self._until(b"\r\n")

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

    def _until(self, mark: bytes) -> bytes:
        """What comes before the mark, which is used up as well."""
        while (at := self._memory.find(mark, self._begin, self._end)) < 0:
            kept = self._end - self._begin
            if kept == _SCRATCH:
                malformed(f"a head or line of more than {_SCRATCH} bytes")
            self._scratch[:kept] = self._memory[self._begin : self._end]
            self._begin, self._end = 0, kept
            self._end += self._receive(self._scratch[kept:]) or cut_short()
        found = self._memory[self._begin : at]
        self._begin = at + len(mark)
        return bytes(found)

    def _receive(self, view: memoryview) -> int:
        try:
            return self._socket.recv_into(view)
        except TimeoutError as error:
            raise httpx.ReadTimeout(str(error)) from error
        except OSError as error:
            raise httpx.ReadError(str(error)) from error


def _unsent(buffers: Sequence[bytes | memoryview], sent: int) -> Sequence[bytes | memoryview]:
    """What follows the first `sent` bytes."""
    for number, buffer in enumerate(buffers):
        if sent < len(buffer):
            return [memoryview(buffer)[sent:], *buffers[number + 1 :]]
        sent -= len(buffer)
    return []


def _headers(lines: list[bytes]) -> tuple[Headers, dict[bytes, bytes]]:
    headers: Headers = []
    fields: dict[bytes, bytes] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or not name or name != name.strip():
            malformed(f"{line[:80]!r} is no header")
        value = value.strip(b" \t")
        headers.append((name, value))
        name = name.lower()
        if name == b"content-length" and fields.get(name, value) != value:
            malformed("two lengths")
        fields[name] = value
    return headers, fields


def malformed(found: str) -> NoReturn:
    raise httpx.RemoteProtocolError(f"the reply is not HTTP/1.1 as it should be: {found}")


def cut_short() -> NoReturn:
    raise httpx.RemoteProtocolError("the connection ended before the reply did")
