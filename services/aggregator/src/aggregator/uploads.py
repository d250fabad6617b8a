"""Receiving an upload into the spool: bounded in size and in time.

The body goes to a file of its own, never over a good one. Nothing is believed yet: files.check_… looks at it
next.
"""

from __future__ import annotations

import asyncio
import mmap
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fastapi import Request
from roundtable.errors import TooLarge, Truncated
from roundtable.types import Seconds
from starlette.exceptions import HTTPException

from aggregator.files import no_space_is_storage_full
from aggregator.receive import body_into

SMALL: Final = 2**20  # bytes; below it a hop to another thread costs more than it saves


@dataclass(frozen=True)
class Bounds:
    """Of one upload: bytes, seconds without a byte, seconds in all."""

    nbytes: int
    stall: Seconds
    total: Seconds


async def receive(request: Request, part: Path, bounds: Bounds) -> int:
    """The body into the absent file `part`; its length in bytes. Raises TooLarge, Truncated, StorageFull.

    What has been written stays for the caller to discard.
    """
    room = _declared_length(request)
    if room > bounds.nbytes:
        raise TooLarge(f"the body has {room} bytes, this order's arrays can take {bounds.nbytes}")
    if room == 0:
        raise Truncated("the body is empty: send the arrays as safetensors")
    # The space is taken before it is written to: a memory map meets a full disk with SIGBUS, not an error.
    mapping = _make(part, room) if room <= SMALL else await asyncio.to_thread(_make, part, room)
    view = memoryview(mapping)
    try:
        received = await body_into(request, view, stall=bounds.stall, within=bounds.total)
    finally:
        view.release()
    mapping.close()
    if received < room:
        os.truncate(part, received)
    return received


def _make(part: Path, room: int) -> mmap.mmap:
    with no_space_is_storage_full(part):
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, room)
            return mmap.mmap(descriptor, room)
        finally:
            os.close(descriptor)


def _declared_length(request: Request) -> int:
    value = request.headers.get("content-length", "")
    if not (value.isascii() and value.isdigit()):
        raise HTTPException(411, "send Content-Length: the space for an upload is taken before it comes")
    return int(value)
