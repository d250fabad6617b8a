"""What local training did to the clients' own held-out examples, summed up for a round's record."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from roundtable.errors import InvalidInput
from roundtable.messages import Gain, Personal
from roundtable.metrics import added, values
from roundtable.types import ClientId


def gains(told: Iterable[tuple[ClientId, Personal | None]]) -> tuple[Gain | None, Mapping[ClientId, Gain]]:
    """(over all these clients' held-out examples, each client's), from what their updates told.

    Sums are added in the order given, so that a client counts by its examples. A client whose sums make no
    metrics has no gain, and where the clients' sums do not match there is none over all: that is
    not worth failing a run for.
    """
    parts = {client: personal for client, personal in told if personal is not None}
    each = {client: gain for client, part in parts.items() if (gain := _gain([part])) is not None}
    return _gain([parts[client] for client in each]), each


def _gain(parts: list[Personal]) -> Gain | None:
    try:
        before, after = added(part.before for part in parts), added(part.after for part in parts)
        return Gain(num_examples=before.num_examples, before=values(before), after=values(after))
    except InvalidInput:
        return None
