"""A bound on request heads, which uvicorn's httptools protocol lacks: a line and headers of at most LIMIT
bytes.
"""

from __future__ import annotations

from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

LIMIT: Final = 64 * 1024
_REFUSAL: Final = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
)


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
                    self.transport.write(_REFUSAL)
                    self.transport.close()

        def on_headers_complete(self) -> None:
            self._in_head, self._head = False, 0
            super().on_headers_complete()

        def on_message_complete(self) -> None:
            self._in_head = True
            super().on_message_complete()

    return Bounded
