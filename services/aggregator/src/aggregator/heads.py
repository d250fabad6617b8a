"""Bounds that uvicorn's httptools protocol lacks: a request's line and headers have at most LIMIT bytes, and
one that is no upload has PATIENCE seconds to come. What is no request at all is refused as other faults are,
in problem+json; a wish for another protocol is ignored.
"""

from __future__ import annotations

import asyncio
import sys
from http import HTTPStatus
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from aggregator.problems import MEDIA_TYPE, PLAIN, problem
from aggregator.receive import new_parser

LIMIT: Final = 64 * 1024
PATIENCE: Final = 600.0  # seconds from a connection, or from a request's beginning, to the request's end


def bounded(protocol: Any) -> type[HttpToolsProtocol]:
    """`protocol`, one of uvicorn's httptools kind, that hangs up on longer heads and on slower requests."""
    base: type[HttpToolsProtocol] = HttpToolsProtocol if isinstance(protocol, str) else protocol

    class Bounded(base):  # type: ignore[misc, valid-type]
        _in_head = True
        _head = 0  # bytes of it so far
        _whole = False  # whether the latest read ended a request: most are one read
        _stop: int | None = None  # where in that the parser stopped for another protocol
        _overdue: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            self._expect(True)

        def connection_lost(self, exc: Exception | None) -> None:
            self._expect(False)
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            in_head, self._whole = self._in_head, False
            super().data_received(data)
            while self._stop is not None:  # a wish for one may be ignored (RFC 9110, 7.8)
                data = self._head_without_wish() + data[self._stop :]
                self._stop, self._whole, self.parser = None, False, new_parser(self)
                super().data_received(data)
            uploading = not self._in_head and self.scope["method"] == "PUT"  # it has bounds of its own
            cycle = self.cycle  # what comes while an answer is under way is no matter of its reader's
            answering = cycle is not None and not cycle.more_body and not cycle.response_complete
            self._expect(not (self._whole or uploading or answering))
            if in_head and self._in_head:
                self._head += len(data)
                if self._head > LIMIT and not self.transport.is_closing():
                    self._refuse(431, f"the request's line and headers are longer than {LIMIT} bytes")

        def _expect(self, more: bool) -> None:
            if more and self._overdue is None:
                self._overdue = self.loop.call_later(PATIENCE, self.transport.abort)
            elif not more and self._overdue is not None:
                self._overdue.cancel()
                self._overdue = None

        def _should_upgrade(self) -> bool:
            return any(name == b"upgrade" for name, _ in self.headers)

        def handle_websocket_upgrade(self) -> None:
            stop: Any = sys.exc_info()[1]  # the parser's HttpParserUpgrade
            self._stop = stop.args[0]

        def _head_without_wish(self) -> bytes:
            version = self.parser.get_http_version().encode()
            lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, version)]
            lines += [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
            return b"\r\n".join([*lines, b"", b""])

        def send_400_response(self, msg: str) -> None:  # noqa: ARG002
            self._refuse(400, "what came cannot be read as HTTP/1.1, or its path is too long")

        def _refuse(self, status: int, detail: str) -> None:
            body = bytes(problem(status, PLAIN, detail).body)
            head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nconnection: close\r\n"
            head += f"content-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\n\r\n"
            self.transport.write(head.encode() + body)
            self.transport.close()

        def on_headers_complete(self) -> None:
            self._in_head, self._head = False, 0
            super().on_headers_complete()

        def on_message_complete(self) -> None:
            self._in_head = self._whole = True
            super().on_message_complete()

    return Bounded
