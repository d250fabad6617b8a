"""What each worker should hold, and the polls that tell it.

A poll states what the worker holds; its answer is the difference to what lies here for it, now or within the
poll's patience. A lost reply, a duplicate, a restarted aggregator and an ordinary wait are thereby one case.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable

from roundtable.messages import Order
from roundtable.types import OrderId, Seconds, WorkerId

from aggregator.clock import Clock

Difference = tuple[tuple[Order, ...], tuple[OrderId, ...]]  # give, cancel
NOTHING: Difference = ((), ())


class Desk:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._orders: dict[WorkerId, dict[OrderId, Order]] = {}
        self._settled: dict[
            WorkerId, set[OrderId]
        ] = {}  # answered, but perhaps still listed by a poll under way
        self._bells: dict[WorkerId, asyncio.Event] = {}  # of the poll that waits, the latest one
        self._closed = False

    def give(self, worker: WorkerId, order: Order) -> None:
        self._orders.setdefault(worker, {})[order.id] = order
        self._settled.get(worker, set()).discard(order.id)
        self._ring(worker)

    def withdraw(self, worker: WorkerId, order: OrderId) -> None:
        if self._orders.get(worker, {}).pop(order, None) is not None:
            self._ring(worker)

    def settle(self, worker: WorkerId, order: OrderId) -> None:
        """Its reply is in: the worker will drop it by itself, so nothing is said about it."""
        self._orders.get(worker, {}).pop(order, None)
        self._settled.setdefault(worker, set()).add(order)

    def clear(self, worker: WorkerId) -> None:
        """The worker is gone: whatever it still holds when it comes back is cancelled then."""
        self._orders.pop(worker, None)
        self._settled.pop(worker, None)

    def held(self, worker: WorkerId, order: OrderId) -> Order | None:
        return self._orders.get(worker, {}).get(order)

    def orders(self) -> Iterable[tuple[WorkerId, Order]]:
        return [(worker, order) for worker, orders in self._orders.items() for order in orders.values()]

    def difference(self, worker: WorkerId, holding: Collection[OrderId]) -> Difference:
        """What to give and what to cancel."""
        orders = self._orders.get(worker, {})
        settled = self._settled.get(worker)
        if settled:
            settled.intersection_update(holding)  # once a poll no longer lists it, it never will again
        if not orders and not holding:
            return NOTHING
        give = tuple(order for identity, order in orders.items() if identity not in holding)
        cancel = tuple(
            identity
            for identity in holding
            if identity not in orders and not (settled and identity in settled)
        )
        return give, cancel

    async def wait(self, worker: WorkerId, bell: asyncio.Event, patience: Seconds) -> bool:
        """Until something is given or withdrawn, `bell` is set by the caller, or `patience` seconds have
        passed.

        A second poll of the same worker takes the first one's place: False, at once, for the first.
        """
        self.dismiss(worker)
        if self._closed:
            return False
        self._bells[worker] = bell
        timer = self._clock.call_at(self._clock.monotonic() + patience, bell.set)
        try:
            await bell.wait()
            return self._bells.get(worker) is bell
        finally:
            timer.cancel()
            if self._bells.get(worker) is bell:
                del self._bells[worker]

    def dismiss(self, worker: WorkerId) -> None:
        """Send a waiting poll home with nothing."""
        if (bell := self._bells.pop(worker, None)) is not None:
            bell.set()

    def close(self) -> None:
        """Send every poll home, and those that still come."""
        self._closed = True
        for worker in list(self._bells):
            self.dismiss(worker)

    def _ring(self, worker: WorkerId) -> None:
        if (bell := self._bells.get(worker)) is not None:
            bell.set()
