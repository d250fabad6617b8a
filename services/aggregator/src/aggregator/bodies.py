"""Sending a file's content from its memory map, without copying it and without a thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from roundtable.types import Digest
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

INLINE: Final = "roundtable-inline"  # header: how long a message the reply to an update may bring, in bytes
ALIGNMENT: Final = 64  # bytes
JSON_BYTES: Final = b"roundtable-json-bytes"  # header of such a reply
PIECE: Final = 2**20  # bytes handed to the transport at a time; it takes the next when most of it is gone


class ContentFile(Response):
    """200 with ETag. `sent` is told the body's length once all of it is handed over.

    Cacheable for ever where the address names the content (`lasting`), else to be asked for again.
    """

    media_type = "application/octet-stream"

    def __init__(
        self, content: memoryview, digest: Digest, sent: Callable[[int], None], *, lasting: bool = True
    ) -> None:
        self._content = content
        self._sent = sent
        self._validators = immutable(digest) if lasting else [etag(digest), (b"cache-control", b"no-cache")]
        self.status_code = 200
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        view = self._content
        headers = [
            (b"content-type", b"application/octet-stream"),
            (b"content-length", b"%d" % len(view)),
            *self._validators,
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for start in range(0, len(view), PIECE):
            more = start + PIECE < len(view)
            await send({"type": "http.response.body", "body": view[start : start + PIECE], "more_body": more})
        self._sent(len(view))


class ReplyAndContent(Response):
    """A JSON reply and, behind it in the same body, a message of arrays; the header `JSON_BYTES` tells where
    it begins."""

    media_type = "application/octet-stream"

    def __init__(self, reply: bytes, content: memoryview) -> None:
        self._reply = reply + b" " * (-len(reply) % ALIGNMENT)  # so that arrays can be used where they lie
        self._content = content
        self.status_code = 200
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        headers = [
            (b"content-type", b"application/octet-stream"),
            (b"content-length", b"%d" % (len(self._reply) + len(self._content))),
            (JSON_BYTES, b"%d" % len(self._reply)),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": self._reply, "more_body": True})
        for start in range(0, len(self._content), PIECE):
            piece = self._content[start : start + PIECE]
            more = start + PIECE < len(self._content)
            await send({"type": "http.response.body", "body": piece, "more_body": more})


def etag(digest: Digest) -> tuple[bytes, bytes]:
    return b"etag", b'"%s"' % digest.encode()


def immutable(digest: Digest) -> list[tuple[bytes, bytes]]:
    return [etag(digest), (b"cache-control", b"private, max-age=31536000, immutable")]


def unchanged(if_none_match: str | None, digest: Digest) -> bool:
    """Whether the reader has it already (RFC 9110, 13.1.2)."""
    if if_none_match is None:
        return False
    tags = {tag.strip().removeprefix("W/") for tag in if_none_match.split(",")}
    return "*" in tags or f'"{digest}"' in tags
