"""What each worker should hold, and the replies that tell it: to polls, and to updates whose sender waits.

A poll states what the worker holds; its answer is the difference to what lies here for it, now or within the
poll's patience. A lost reply, a duplicate, a restarted aggregator and an ordinary wait are thereby one case.

Of many orders a worker is told the first TOLD, and more when half of them are done: its polls list all that
it holds, and their length is bounded.

The reply to an update may wait too, shortly, and bring the next orders: what no reply has told yet. Should it
be lost, a poll tells them again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable
from itertools import islice
from typing import Final

from roundtable.messages import Order
from roundtable.types import OrderId, Seconds, WorkerId

from aggregator.clock import Clock

Difference = tuple[tuple[Order, ...], tuple[OrderId, ...]]  # give, cancel
NOTHING: Difference = ((), ())
TOLD: Final = 5000  # orders of one worker at a time: a poll that lists so many is shorter than JSON_LIMIT
STALE: Seconds = 1.0  # what a poll said when it began to wait is taken to hold for this long


class Desk:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._orders: dict[WorkerId, dict[OrderId, Order]] = {}
        self._settled: dict[
            WorkerId, set[OrderId]
        ] = {}  # answered, but perhaps still listed by a poll under way
        self._untold: dict[WorkerId, dict[OrderId, Order]] = {}
        self._bells: dict[WorkerId, asyncio.Event] = {}  # of the poll that waits, the latest one
        self._since: dict[WorkerId, Seconds] = {}  # it waits
        self._senders: dict[WorkerId, asyncio.Event] = {}  # of the reply to an update that waits
        self._closed = False

    def give(self, worker: WorkerId, order: Order) -> None:
        self._orders.setdefault(worker, {})[order.id] = order
        self._settled.get(worker, set()).discard(order.id)
        self._untold.setdefault(worker, {})[order.id] = order
        sender = self._senders.get(worker)
        if sender is not None:
            sender.set()
        # A poll that has waited for some time is answered as well, so that the worker says what it does now.
        if sender is None or self._clock.monotonic() - self._since.get(worker, 0.0) > STALE:
            self._ring(worker)

    def withdraw(self, worker: WorkerId, order: OrderId) -> None:
        self._untold.get(worker, {}).pop(order, None)
        if self._orders.get(worker, {}).pop(order, None) is not None:
            self._ring(worker)

    def settle(self, worker: WorkerId, order: OrderId) -> None:
        """Its reply is in: the worker will drop it by itself, so nothing is said about it."""
        orders = self._orders.get(worker, {})
        orders.pop(order, None)
        self._untold.get(worker, {}).pop(order, None)
        self._settled.setdefault(worker, set()).add(order)
        if len(orders) >= TOLD and len(orders) % (TOLD // 2) == 0:
            self._ring(worker)

    def clear(self, worker: WorkerId) -> None:
        """The worker is gone: whatever it still holds when it comes back is cancelled then."""
        self._orders.pop(worker, None)
        self._settled.pop(worker, None)
        self._untold.pop(worker, None)

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
        known = frozenset(holding)
        give = tuple(order for identity, order in self._first(worker) if identity not in known)
        self._untold.pop(worker, None)
        cancel = tuple(
            identity
            for identity in holding
            if identity not in orders and not (settled and identity in settled)
        )
        return give, cancel

    def _first(self, worker: WorkerId) -> Iterable[tuple[OrderId, Order]]:
        return islice(self._orders.get(worker, {}).items(), TOLD)

    async def wait(self, worker: WorkerId, bell: asyncio.Event, patience: Seconds) -> bool:
        """Until something is given or withdrawn, `bell` is set by the caller, or `patience` seconds have
        passed.

        A second poll of the same worker takes the first one's place: False, at once, for the first.
        """
        if (bell_before := self._bells.pop(worker, None)) is not None:
            bell_before.set()
        if self._closed:
            return False
        self._bells[worker], self._since[worker] = bell, self._clock.monotonic()
        try:
            await self._rung(bell, patience)
            return self._bells.get(worker) is bell
        finally:
            if self._bells.get(worker) is bell:
                del self._bells[worker]

    async def next_orders(self, worker: WorkerId, patience: Seconds) -> tuple[Order, ...]:
        """For a worker whose update has just been settled: what it has not been told yet, as soon as there is
        some.

        Nothing, at once, where it has other orders to carry out; nothing after `patience` seconds.
        """
        if not self._orders.get(worker) and not self._closed and worker not in self._senders:
            bell = self._senders[worker] = asyncio.Event()
            try:
                await self._rung(bell, patience)
            finally:
                del self._senders[worker]
        untold = self._untold.pop(worker, {})
        return tuple(order for identity, order in self._first(worker) if identity in untold) if untold else ()

    async def _rung(self, bell: asyncio.Event, patience: Seconds) -> None:
        timer = self._clock.call_at(self._clock.monotonic() + patience, bell.set)
        try:
            await bell.wait()
        finally:
            timer.cancel()

    def remind(self, worker: WorkerId) -> None:
        """An earlier reply may be lost: answer the poll that waits, so that what it should know is told
        again."""
        self._ring(worker)

    def dismiss(self, worker: WorkerId) -> None:
        """Send a waiting poll home with nothing, and a waiting sender."""
        if (bell := self._bells.pop(worker, None)) is not None:
            bell.set()
        if (bell := self._senders.get(worker)) is not None:
            bell.set()

    def close(self) -> None:
        """Send every poll home, and those that still come."""
        self._closed = True
        for worker in {*self._bells, *self._senders}:
            self.dismiss(worker)

    def _ring(self, worker: WorkerId) -> None:
        if (bell := self._bells.get(worker)) is not None:
            bell.set()
