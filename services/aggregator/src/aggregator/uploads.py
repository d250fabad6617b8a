"""Receiving an upload into the spool: bounded in size and in time.

The body goes to a room of its own, never over a good one. Nothing is believed yet: `checks` looks at it next.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from fastapi import Request
from roundtable.errors import TooLarge, Truncated
from roundtable.types import Seconds
from starlette.exceptions import HTTPException

from aggregator.receive import body_into
from aggregator.spool import Room, Spool

SMALL: Final = 2**20  # bytes; below it a hop to another thread costs more than it saves


@dataclass(frozen=True)
class Bounds:
    """Of one upload: bytes, seconds without a byte, seconds in all."""

    nbytes: int
    stall: Seconds
    total: Seconds


async def receive(request: Request, spool: Spool, bounds: Bounds) -> Room:
    """The body in a room of the spool, the caller's to accept or discard. Raises TooLarge, Truncated,
    StorageFull, and leaves nothing behind then.
    """
    length = _declared_length(request)
    if length > bounds.nbytes:
        raise TooLarge(f"the body has {length} bytes, this order's arrays can take {bounds.nbytes}")
    if length == 0:
        raise Truncated("the body is empty: send the arrays as safetensors")
    if length <= SMALL:
        room = spool.open(length)
    else:
        room = await asyncio.to_thread(spool.open, length)
    try:
        received = await body_into(request, room.content, stall=bounds.stall, within=bounds.total)
        if received < length:
            raise Truncated(f"the body has {received} bytes, its Content-Length says {length}")
    except BaseException:
        spool.discard(room)
        raise
    return room


def _declared_length(request: Request) -> int:
    value = request.headers.get("content-length", "")
    if not (value.isascii() and value.isdigit()):
        raise HTTPException(411, "send Content-Length: the space for an upload is taken before it comes")
    return int(value)
