"""A bound on request heads, which uvicorn's httptools protocol lacks: a line and headers of at most LIMIT
bytes. What is no request at all is refused as any other fault is, in problem+json.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from aggregator.problems import MEDIA_TYPE, PLAIN, problem

LIMIT: Final = 64 * 1024


def bounded(protocol: Any) -> type[HttpToolsProtocol]:
    """`protocol`, one of uvicorn's httptools kind, that hangs up on longer heads."""
    base: type[HttpToolsProtocol] = HttpToolsProtocol if isinstance(protocol, str) else protocol

    class Bounded(base):  # type: ignore[misc, valid-type]
        _in_head = True
        _head = 0  # bytes of it so far

        def data_received(self, data: bytes) -> None:
            in_head = self._in_head
            super().data_received(data)
            if in_head and self._in_head:
                self._head += len(data)
                if self._head > LIMIT and not self.transport.is_closing():
                    self._refuse(431, f"the request's line and headers are longer than {LIMIT} bytes")

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
            self._in_head = True
            super().on_message_complete()

    return Bounded
