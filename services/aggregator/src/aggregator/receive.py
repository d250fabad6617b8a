"""Request bodies received straight into where they belong: the fast half of every upload.

uvicorn's protocol copies a body five times between the socket and a file, and stops reading every 64 kB.
`protocol()` is a subclass whose transport reads a large body with a Content-Length into a buffer that the
route names, usually the memory map of a spool file: one copy, made by the kernel. It offers this to the
application as the ASGI scope extension `EXTENSION`; `body_into` is the one function routes call, and reads
the plain way where nothing is offered (a small or chunked body, another server, a test's ASGITransport).

This touches uvicorn's private state. Where uvicorn is not of a version that was tried, `protocol()` says so
in one log line and is uvicorn's own; tests hold the two against each other.

How a body passes: the parser sees the head and whatever of the body came along in the same read; from then on
reading is paused until the route calls `body_into`, or reads the plain way. The rest bypasses the parser,
which is replaced by a new one for the next request of the connection. A route that gives up half-way leaves
no one writing into its buffer: what still comes is read and thrown away, for LINGER seconds at most.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, TypeAlias

import httptools
import uvicorn
from roundtable.errors import TooLarge, Truncated
from roundtable.types import Seconds
from starlette.requests import Request
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from aggregator.logs import note

EXTENSION: Final = "roundtable.receive"
LINGER: Final = 30.0  # seconds that a refused body may go on coming before its connection is cut
_KNOWN: Final = "0.54."  # the uvicorn whose private state this was written against
_SCRATCH: Final = 64 * 1024
_SMALL: Final = 16 * 1024  # bytes; a longer piece of a reply waits for nothing
_DIRECT_FROM: Final = 32 * 1024  # a shorter body is mostly in with its head

Progress: TypeAlias = Callable[[int], None]


async def body_into(
    request: Request,
    destination: memoryview,
    *,
    stall: Seconds | None = None,
    within: Seconds | None = None,
    progress: Progress | None = None,
) -> int:
    """Receive the request's body into `destination` (writable, contiguous bytes) and return its length in
    bytes.

    `stall`: longest time without a byte; `within`: longest time for the whole; `progress` is called on the
    event loop with the number of bytes that are in so far, whenever more are. Nothing is written past the
    end, nor once this has returned or raised. Raises TooLarge when the body is longer than `destination`,
    Truncated when its sender goes away or is too slow.
    """
    length = _content_length(request)
    if length is not None and length > len(destination):
        raise TooLarge(f"the body has {length} bytes, at most {len(destination)} are allowed here")
    offer: Intake | None = (request.scope.get("extensions") or {}).get(EXTENSION)
    if offer is not None:
        return await offer.receive(destination, stall, within, progress)
    try:
        return await asyncio.wait_for(_plain(request, destination, stall, progress), within)
    except asyncio.TimeoutError:
        raise _slow(within) from None


async def _plain(
    request: Request, destination: memoryview, stall: Seconds | None, progress: Progress | None
) -> int:
    at, more = 0, True
    while more:
        try:
            message = await asyncio.wait_for(request.receive(), stall)
        except asyncio.TimeoutError:
            raise _stalled(at, stall) from None
        if message["type"] == "http.disconnect":
            raise _gone(at)
        chunk, more = message.get("body", b""), message.get("more_body", False)
        if at + len(chunk) > len(destination):
            raise TooLarge(f"the body goes on past the {len(destination)} bytes that are allowed here")
        destination[at : at + len(chunk)] = chunk
        at += len(chunk)
        if progress and chunk:
            progress(at)
    return at


def _content_length(request: Request) -> int | None:
    text = request.headers.get("content-length", "")
    return int(text) if text.isascii() and text.isdigit() else None


def _stalled(at: int, stall: Seconds | None) -> Truncated:
    return Truncated(f"no byte for {stall:g} s after the first {at} of the body: the sender has stalled")


def _slow(within: Seconds | None) -> Truncated:
    return Truncated(f"the body was not in after {within:g} s: it comes too slowly")


def _gone(at: int) -> Truncated:
    return Truncated(f"the sender went away after {at} bytes of the body")


class Intake:
    """One request's body: what the extension offers. Its protocol moves `at` along; only `receive` is for
    routes."""

    def __init__(self, protocol: _Direct, length: int) -> None:
        self.length = length
        self.at = 0
        self.destination: memoryview | None = None  # while it is being received into
        self._protocol = protocol
        self._cycle: RequestResponseCycle | None = None
        self._done: asyncio.Future[None] | None = None
        self._progress: Progress | None = None

    def belongs_to(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle

    async def receive(
        self,
        destination: memoryview,
        stall: Seconds | None,
        within: Seconds | None,
        progress: Progress | None,
    ) -> int:
        """As `body_into`; at most once a request."""
        cycle = self._cycle
        assert cycle is not None, "offered before its head was complete"
        if cycle.disconnected:
            raise _gone(len(cycle.body))
        early, cycle.body = cycle.body, bytearray()
        self.at = len(early)
        destination[: self.at] = early
        if self.at and progress:
            progress(self.at)
        if not cycle.more_body:
            return self.at
        cycle.message_event.clear()
        loop = asyncio.get_running_loop()
        self._done, self._progress = loop.create_future(), progress
        self.destination = destination[: self.length]
        watch = _Watch(loop, self, stall) if stall else None
        limit = loop.call_later(within, self.fail, _slow(within)) if within else None
        try:
            self._protocol.receive_directly(self)
            if cycle.waiting_for_100_continue and not cycle.transport.is_closing():
                cycle.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                cycle.waiting_for_100_continue = False
            await self._done
        finally:
            # From here on the protocol throws away what is missing, if anything is.
            self.destination = self._progress = None
            for timer in (watch, limit):
                if timer:
                    timer.cancel()
        return self.at

    def moved(self, nbytes: int) -> None:
        self.at += nbytes
        if self._progress:
            self._progress(self.at)

    def finish(self) -> None:
        if self._done and not self._done.done():
            self._done.set_result(None)

    def fail(self, error: Truncated) -> None:
        if self._done and not self._done.done():
            self._done.set_exception(error)

    def lost(self) -> None:
        self.fail(_gone(self.at))


class _Watch:
    """Fails an intake that has not moved for `stall` seconds; one timer, however many reads."""

    def __init__(self, loop: asyncio.AbstractEventLoop, intake: Intake, stall: Seconds) -> None:
        self._loop, self._intake, self._stall = loop, intake, stall
        self._seen = intake.at
        self._timer = loop.call_later(stall, self._look)

    def _look(self) -> None:
        if self._intake.at == self._seen:
            self._intake.fail(_stalled(self._seen, self._stall))
            return
        self._seen = self._intake.at
        self._timer = self._loop.call_later(self._stall, self._look)

    def cancel(self) -> None:
        self._timer.cancel()


class _Direct(HttpToolsProtocol):
    """uvicorn's protocol, and what happens to a body that does not pass through its parser."""

    intake: Intake | None = None  # the body that is being received directly, or thrown away
    _offered: Intake | None = None  # the body of the latest head
    _linger: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_protocol(_Reads(self))
        self.transport = _Writes(transport, self.loop)  # type: ignore[assignment]

    def connection_lost(self, exc: Exception | None) -> None:
        if self._linger:
            self._linger.cancel()
        if self.intake:
            self.intake.lost()
            self.intake = None
        super().connection_lost(exc)

    def on_headers_complete(self) -> None:
        length = self._length_to_offer()
        if length is None:
            super().on_headers_complete()
            return
        intake = Intake(self, length)
        self.scope["extensions"] = {EXTENSION: intake}  # type: ignore[dict-item]  # uvicorn types it too narrowly
        super().on_headers_complete()
        intake.belongs_to(self.cycle)
        self._offered = intake
        self.flow.pause_reading()  # until someone says where to, or reads the plain way

    def _length_to_offer(self) -> int | None:
        if self.parser.should_upgrade():
            return None
        for name, value in self.headers:
            if name == b"content-length" and value.isdigit() and int(value) >= _DIRECT_FROM:
                return int(value)
        return None

    def receive_directly(self, intake: Intake) -> None:
        self.intake, self._offered = intake, None
        # The old parser still waits for this body; nothing of it is needed for the next request.
        self.parser = new_parser(self)
        self.flow.resume_reading()

    def buffer(self, scratch: memoryview) -> memoryview:
        """Where the next read goes: never past the end of a body that bypasses the parser."""
        if self.intake is None:
            return scratch
        if self.intake.destination is None:
            return scratch[: self.intake.length - self.intake.at]
        return self.intake.destination[self.intake.at :]

    def buffer_updated(self, scratch: memoryview, nbytes: int) -> None:
        intake = self.intake
        if intake is None:
            self.data_received(bytes(scratch[:nbytes]))
            return
        intake.moved(nbytes)
        if intake.at == intake.length:
            self.intake = None
            intake.finish()
            self.on_message_complete()  # as the parser would have called it

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._offered = None
        self._stop_lingering()

    def on_response_complete(self) -> None:
        unfinished = not self.pipeline and (self.intake is not None or self._offered is not None)
        super().on_response_complete()
        if unfinished and not self.transport.is_closing():
            # Answered before the body was in: let it come, so that its sender reads the answer; not for ever.
            self._unset_keepalive_if_required()
            self._linger = self._linger or self.loop.call_later(LINGER, self.transport.abort)

    def _stop_lingering(self) -> None:
        if self._linger:
            self._linger.cancel()
            self._linger = None
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )


class _Writes:
    """The transport as uvicorn writes to it: a reply's head goes out with the body's beginning, in one call.

    Separately each reply would wake its reader twice. A head that nothing follows goes out with the loop's
    next turn.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held: list[bytes | memoryview] = []

    def write(self, data: bytes | memoryview) -> None:
        if not self._held and data[:9] != b"HTTP/1.1 ":
            self._transport.write(data)
            return
        if not self._held:
            self._loop.call_soon(self._flush)
        self._held.append(data)
        if len(data) > _SMALL:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        held, self._held = self._held, []
        if held and not self._transport.is_closing():  # its reader may be gone by now
            self._transport.writelines(held)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class _Reads(asyncio.BufferedProtocol):
    """What the transport talks to. A protocol of its own because event loops take a subclass of Protocol for
    unbuffered."""

    def __init__(self, http: _Direct) -> None:
        self._http = http
        self._scratch = memoryview(bytearray(_SCRATCH))

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        return self._http.buffer(self._scratch)

    def buffer_updated(self, nbytes: int) -> None:
        self._http.buffer_updated(self._scratch, nbytes)

    def eof_received(self) -> None:
        self._http.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._http.connection_lost(exc)

    def pause_writing(self) -> None:
        self._http.pause_writing()

    def resume_writing(self) -> None:
        self._http.resume_writing()


def new_parser(protocol: HttpToolsProtocol) -> Any:
    parser = httptools.HttpRequestParser(protocol)
    parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn sets its own
    return parser


def protocol() -> type[asyncio.Protocol] | str:
    """What to give to `uvicorn.run(http=…)`."""
    if uvicorn.__version__.startswith(_KNOWN):
        return _Direct
    note("uploads take the plain path", uvicorn=uvicorn.__version__, known=_KNOWN + "x")
    return "httptools"
