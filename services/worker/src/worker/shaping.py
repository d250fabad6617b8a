"""A slow link, acted out: an httpx transport that lets another one's requests wait and their bytes pass at a
rate, as a client's profile says (`roundtable.fleet.Conditions`).

Bytes go in pieces of a token bucket's depth, each of which has passed when the rate would have let its last
byte through: n bytes in one go never take less than n / rate, and hardly more, for what waits and the network
took too long is made up for, up to one piece. Time and waiting are injected.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

import httpx
from roundtable.fleet import Conditions, transfer
from roundtable.types import Seconds

PIECE: Final = 16 << 10  # bytes: the bucket's depth

Rest = Callable[[Seconds], None]  # waits so long; raises where it is not worth it any more


class Bucket:
    """What passes through it takes its time. It begins empty. Not for two threads at once."""

    def __init__(self, mbit: float | None, clock: Callable[[], Seconds], rest: Rest) -> None:
        self._mbit, self._clock, self._rest = mbit, clock, rest
        self._free: Seconds | None = None  # when all that was let in has passed

    def let(self, nbytes: int) -> None:
        """Return once so many bytes have passed."""
        if self._mbit is None:
            return
        now = self._clock()
        earliest = now if self._free is None else max(self._free, now - transfer(PIECE, self._mbit))
        self._free = earliest + transfer(nbytes, self._mbit)
        self._rest(self._free - now)

    def pace(self, chunks: Iterable[bytes | memoryview]) -> Iterator[bytes]:
        """The same bytes, no faster than this."""
        for chunk in chunks:
            view = memoryview(chunk)
            for start in range(0, len(view), PIECE):
                piece = view[start : start + PIECE]
                self.let(len(piece))
                yield bytes(piece)


class ShapedTransport(httpx.BaseTransport):
    """`inner`'s requests over a link of these conditions: a GET pays what fetching pays, else handing in."""

    def __init__(
        self, inner: httpx.BaseTransport, conditions: Conditions, clock: Callable[[], Seconds], rest: Rest
    ) -> None:
        self._inner, self._rest = inner, rest
        self._conditions = conditions
        self._down = Bucket(conditions.down_mbit, clock, rest)
        self._up = Bucket(conditions.up_mbit, clock, rest)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        conditions = self._conditions
        self._rest(conditions.down_delay if request.method == "GET" else conditions.up_delay)
        buffers: Sequence[bytes | memoryview] | None = request.extensions.get("buffers")
        body = buffers if buffers is not None else request.stream
        assert isinstance(body, Iterable)
        slowed = httpx.Request(
            request.method,
            request.url,
            headers=request.headers,
            stream=_Paced(self._up, body),
            extensions={"timeout": request.extensions.get("timeout", {})},
        )
        response = self._inner.handle_request(slowed)
        assert isinstance(response.stream, httpx.SyncByteStream)
        return httpx.Response(
            response.status_code,
            headers=response.headers,
            stream=_Paced(self._down, response.stream, response.close),
            extensions=response.extensions,
        )

    def close(self) -> None:
        """The inner one is somebody else's."""


class _Paced(httpx.SyncByteStream):
    def __init__(
        self, bucket: Bucket, chunks: Iterable[bytes | memoryview], close: Callable[[], None] = lambda: None
    ) -> None:
        self._bucket, self._chunks, self._close = bucket, chunks, close

    def __iter__(self) -> Iterator[bytes]:
        return self._bucket.pace(self._chunks)

    def close(self) -> None:
        self._close()
