"""An order's id and back: what the round machine calls (key, attempt) and the wire calls an order."""

from __future__ import annotations

import re
from typing import Final, cast

from roundtable.errors import Unknown
from roundtable.types import OrderId, RunId

from aggregator.events import Key, Kind

_ID: Final = re.compile(
    r"(?P<run>[a-z0-9-]{1,120})\.(?P<round>\d{1,9})\.(?P<trial>\d{1,9})\.(?P<kind>initialize|train|evaluate)"
    r"\.(?:c(?P<client>\d{1,9})|s(?P<shard>\d{1,9})|x)\.(?P<attempt>\d{1,9})",
    re.ASCII,
)


def parse(order: OrderId) -> tuple[RunId, Key, int]:
    """(run, key, attempt). Raises Unknown."""
    found = _ID.fullmatch(order)
    if found is None:
        raise Unknown(f"order {order!r:.100} is not one of this aggregator's: send the id as it was given")
    client, shard = (int(found[name]) if found[name] else -1 for name in ("client", "shard"))
    key = Key(int(found["round"]), cast(Kind, found["kind"]), int(found["trial"]), client, shard)
    return found["run"], key, int(found["attempt"])


def stop_id(run: RunId, round_number: int) -> OrderId:
    """Of the order that tells a worker that a run is over; every worker gets the same one."""
    return f"{run}.{round_number}.1.stop.x.1"
