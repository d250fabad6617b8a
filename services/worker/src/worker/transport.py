"""An httpx transport over bare sockets: large bodies go between the kernel and their buffers without a copy
in between.

httpx's own transport copies each byte of a reply about five times and takes an update in small pieces. This
one sends `request.extensions["buffers"]` with sendmsg, and receives a reply straight into one buffer of its
length, left in `response.extensions["content"]`. It speaks plain HTTP/1.1 and keeps what httpx gives:
time-outs from `request.extensions["timeout"]`, connections used again and opened anew once closed, replies of
any framing, errors as httpx.TransportError. Anything it does not do itself (https, proxies, upgrades) it
leaves to the stock transport.

Extensions, all optional and ignored by the stock transport: request   "buffers"   sequence of bytes-like: the
body, instead of `request.stream`; its bytes are the same "limit"     bytes: a reply body up to this length is
received before `handle_request` returns response  "content"   memoryview: that body
"""

from __future__ import annotations

import re
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import httpx
import numpy as np
import numpy.typing as npt
from roundtable.codec import Buffer
from roundtable.errors import TooLarge
from roundtable.types import Seconds

from worker.connection import Connection, Head, Headers, Origin, cut_short, malformed

_IDLE_KEPT: Final = 8
_ROOM_FROM: Final = 1 << 20  # bytes; the allocator keeps smaller ones by itself
_ROOMS_KEPT: Final = 3
_UNUSED: Final = (
    3  # references to a room that only its list has: that, a loop's variable and a call's argument
)
_CHUNK_SIZE: Final = re.compile(rb"([0-9a-fA-F]{1,16})[ \t]*(;.*)?")


class Answer(NamedTuple):
    """A reply, received: header names in lower case."""

    status: int
    headers: Mapping[bytes, bytes]
    content: Buffer


class SocketTransport(httpx.BaseTransport):
    """Thread-safe; each request has a connection of its own while it lasts."""

    def __init__(self, stock: httpx.BaseTransport | None = None) -> None:
        self._stock = stock or httpx.HTTPTransport()
        self._idle: deque[Connection] = deque()
        self.rooms = Rooms()
        self._lock = threading.Lock()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        if url.scheme != "http" or "upgrade" in request.headers:
            return self._stock.handle_request(request)
        timeout = request.extensions.get("timeout") or {}
        connection = self._connection((url.raw_host.decode("ascii"), url.port or 80), timeout)
        try:
            head = _head(request.method, url.raw_path, request.headers.raw)
            reply, keep = self._exchange(connection, _parts(head, request), timeout)
            framing = _framing(request.method, reply)
            extensions: dict[str, object] = {"http_version": reply.version}
            limit = request.extensions.get("limit")
            if limit is not None and isinstance(framing, int) and framing <= limit:
                extensions["content"] = content = self._content(connection, framing, keep)
                stream: httpx.SyncByteStream = _Received(content)
            else:
                stream = _Body(self, connection, keep, framing)
            return httpx.Response(reply.status, headers=reply.headers, stream=stream, extensions=extensions)
        except BaseException:
            connection.close()
            raise

    def ask(
        self,
        origin: Origin,
        method: str,
        target: bytes,
        headers: Headers,
        buffers: Sequence[bytes | memoryview],
        timeout: Mapping[str, Seconds | None],
        limit: int,
    ) -> Answer:
        """One request over plain HTTP, without building httpx's objects for it, which takes longer than the
        rest.

        Raises httpx.TransportError, and TooLarge past `limit` bytes.
        """
        connection = self._connection(origin, timeout)
        try:
            head = _head(method, target, [*headers, (b"content-length", b"%d" % sum(map(len, buffers)))])
            reply, keep = self._exchange(connection, ([head, *buffers],), timeout)
            framing = _framing(method, reply)
            if isinstance(framing, int):
                if framing <= limit:
                    return Answer(reply.status, reply.fields, self._content(connection, framing, keep))
            else:
                content = bytearray()
                for piece in _Body(self, connection, keep, framing):
                    content += piece
                    if len(content) > limit:
                        break
                else:
                    return Answer(reply.status, reply.fields, content)
            raise TooLarge(f"the reply has more than the {limit} bytes allowed")
        except BaseException:
            connection.close()
            raise

    def close(self) -> None:
        self._stock.close()
        with self._lock:
            while self._idle:
                self._idle.pop().close()

    def _connection(self, origin: Origin, timeout: Mapping[str, Seconds | None]) -> Connection:
        with self._lock:
            for connection in tuple(self._idle):
                if not connection.usable():
                    self._idle.remove(connection)
                    connection.close()
            for connection in reversed(self._idle):  # the one used last
                if connection.origin == origin:
                    self._idle.remove(connection)
                    return connection
        return Connection(origin, timeout.get("connect"))

    def release(self, connection: Connection, reusable: bool) -> None:
        """The reply is in, or given up: keep the connection for another request, or close it."""
        surplus = None if reusable else connection
        if reusable:
            connection.since = time.monotonic()
            with self._lock:
                self._idle.append(connection)
                surplus = self._idle.popleft() if len(self._idle) > _IDLE_KEPT else None
        if surplus is not None:
            surplus.close()

    def _exchange(
        self,
        connection: Connection,
        parts: Iterable[Sequence[bytes | memoryview]],
        timeout: Mapping[str, Seconds | None],
    ) -> tuple[Head, bool]:
        """The head of the reply to what `parts` make, whose body is still to be received; whether the
        connection can be used again then."""
        connection.timeout(timeout.get("write"))
        sent = True
        try:
            for buffers in parts:
                connection.send(buffers)
        except httpx.WriteError:
            sent = False  # refused half-way: the reply that says why may be there already
        connection.timeout(timeout.get("read"))
        reply = connection.read_head()
        closing = b"close" in reply.fields.get(b"connection", b"").lower()
        return reply, sent and reply.version == b"HTTP/1.1" and not closing

    def _content(self, connection: Connection, length: int, keep: bool) -> memoryview:
        """All of a body of known length, in one buffer."""
        content = self.rooms.take(length)
        connection.fill(content)
        self.release(connection, keep)
        return content


class Rooms:
    """Memory for large bodies, used again once nobody refers to what was in it: fresh pages cost as much as
    receiving."""

    def __init__(self) -> None:
        self._rooms: list[npt.NDArray[np.uint8]] = []
        self._lock = threading.Lock()

    def take(self, nbytes: int) -> memoryview:
        """Writable, of this length."""
        if nbytes < _ROOM_FROM:
            return np.empty(nbytes, np.uint8).data
        with self._lock:
            free = [room for room in self._rooms if sys.getrefcount(room) == _UNUSED]
            fitting = next((room for room in free if nbytes <= room.nbytes <= 2 * nbytes), None)
            if fitting is None:
                in_use = [room for room in self._rooms if all(room is not other for other in free)]
                fitting = np.empty(nbytes + nbytes // 64, np.uint8)
                self._rooms = [*in_use[-_ROOMS_KEPT:], fitting]
            return fitting.data[:nbytes]


class _Body(httpx.SyncByteStream):
    """A reply's body as it comes."""

    def __init__(
        self, transport: SocketTransport, connection: Connection, keep: bool, framing: int | str
    ) -> None:
        self._framing = framing
        self._transport = transport
        self._connection: Connection | None = connection
        self._keep = keep and framing != "until closed"
        if framing == 0:
            self._release(self._keep)

    def __iter__(self) -> Iterator[bytes]:
        if self._connection is None:
            return
        try:
            if self._framing == "chunked":
                yield from _chunks(self._connection)
            elif isinstance(self._framing, int):
                yield from _pieces(self._connection, self._framing)
            else:
                yield from iter(self._connection.some, b"")
        except httpx.TransportError:
            self._release(False)
            raise
        self._release(self._keep)

    def close(self) -> None:
        self._release(False)  # whoever did not read it to its end leaves bytes behind

    def _release(self, reusable: bool) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            self._transport.release(connection, reusable)


class _Received(httpx.SyncByteStream):
    def __init__(self, content: memoryview) -> None:
        self._content = content

    def __iter__(self) -> Iterator[bytes]:
        yield bytes(self._content)


def _head(method: str, target: bytes, headers: Headers) -> bytes:
    parts = [method.encode(), b" ", target, b" HTTP/1.1\r\n"]
    for name, value in headers:
        parts += (name, b": ", value, b"\r\n")
    return b"".join([*parts, b"\r\n"])


def _parts(head: bytes, request: httpx.Request) -> Iterator[Sequence[bytes | memoryview]]:
    """What is to be sent at a time."""
    buffers: Sequence[bytes | memoryview] | None = request.extensions.get("buffers")
    if buffers is not None:
        yield [head, *buffers]
    elif isinstance(request.stream, httpx.ByteStream):
        yield [head, *request.stream]
    else:
        chunked = request.headers.get("transfer-encoding", "").lower() == "chunked"
        yield [head]
        assert isinstance(request.stream, httpx.SyncByteStream)
        for piece in request.stream:
            if piece and chunked:
                yield [b"%x\r\n" % len(piece), piece, b"\r\n"]
            else:
                yield [piece]
        if chunked:
            yield [b"0\r\n\r\n"]


def _framing(method: str, reply: Head) -> int | str:
    """How the body ends (RFC 9112, section 6.3): its length in bytes, "chunked" or "until closed"."""
    fields = reply.fields
    if method == "HEAD" or reply.status in (204, 304):
        return 0
    if b"transfer-encoding" in fields:
        if fields[b"transfer-encoding"].lower() != b"chunked":
            malformed(f"transfer-encoding {fields[b'transfer-encoding'][:80]!r}")
        return "chunked"
    if b"content-length" in fields:
        if not fields[b"content-length"].isdigit():
            malformed(f"content-length {fields[b'content-length'][:80]!r}")
        return int(fields[b"content-length"])
    return "until closed"


def _pieces(connection: Connection, length: int) -> Iterator[bytes]:
    while length:
        piece = connection.some(length) or cut_short()
        length -= len(piece)
        yield piece


def _chunks(connection: Connection) -> Iterator[bytes]:
    while True:
        line = connection.read_line()
        size = _CHUNK_SIZE.fullmatch(line) or malformed(f"chunk size {line[:80]!r}")
        length = int(size[1], 16)
        if not length:
            break
        yield from _pieces(connection, length)
        if connection.read_line():
            malformed("a chunk longer than it says")
    while connection.read_line():
        pass  # trailers
