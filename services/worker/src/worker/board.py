"""The orders a worker holds: what its three threads share, and the only thing they share.

    poll thread   reconcile(give, cancel) · holding() · doing()
    work thread   take() → Held, then hand_over(Parcel), or drop(Held), or send_at_once(Parcel) and drop(Held)
    send thread   next_parcel() → Parcel, then drop(Held)

An order is held from the moment it is given until its reply is accepted (or it is dropped): that is what
the worker tells the aggregator in each poll. One lock guards all of it; each thread waits for
what concerns it, so that nobody is woken for nothing.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from roundtable.codec import Buffer, Encoded
from roundtable.messages import Order, OrderResult
from roundtable.types import OrderId, Seconds

UPDATES_IN_MEMORY = 2  # one being sent, one being made

# What counts most goes first: a round waits for its updates, nobody waits for an evaluation of the last one.
_RANK = {"stop": 0, "initialize": 1, "train": 2, "evaluate": 3}
_DOING = {"stop": "ending a run", "initialize": "initializing", "train": "training", "evaluate": "evaluating"}


@dataclass(eq=False)
class Held:
    """An order in this worker's hands."""

    order: Order
    arrived: Seconds  # on the board's clock
    cancelled: bool = False  # its result is no longer wanted
    # of a client with a machine of its own (apart):
    message: Buffer | None = None  # the round's, fetched over its own link
    fetching: Seconds = 0.0
    cpu_seconds: Seconds = 0.0  # that training took
    content: Encoded | OrderResult | None = None  # what came of it


@dataclass(frozen=True, eq=False)
class Parcel:
    """An order's reply, ready to be sent."""

    held: Held
    content: Encoded | OrderResult


class Board:
    def __init__(
        self,
        clock: Callable[[], Seconds] = time.monotonic,
        apart: Callable[[Held], None] = lambda _held: None,
    ) -> None:
        """`apart` is told of orders for clients with machines of their own; it queues them in its time."""
        self._clock = clock
        self._apart = apart
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)  # there may be an order to take
        self._mail = threading.Condition(self._lock)  # there may be a parcel to send
        self._changed = threading.Condition(self._lock)  # anything else
        self._held: dict[OrderId, Held] = {}  # queued, running and being sent, in order of arrival
        self._queue: list[Held] = []
        self._running: Held | None = None
        self._outbox: deque[Parcel] = deque()
        self._sending: Parcel | None = None
        self._news = 0  # counts nudges, so that a pause ends when the aggregator is back
        self._closed = False
        self._expired = False

    # --- the poll thread

    def reconcile(self, give: Iterable[Order], cancel: Iterable[OrderId]) -> bool:
        """Take the difference the aggregator named. Returns whether that changed anything."""
        travellers: list[Held] = []
        with self._lock:
            changed = False
            for order_id in cancel:
                held = self._held.get(order_id)
                if held is not None and not held.cancelled:
                    changed = True
                    self._cancel(held)
            for order in give:
                known = self._held.get(order.id)
                if (known is None or known.cancelled) and not self._closed:
                    held = Held(order, self._clock())
                    self._held[order.id] = held
                    (self._queue if order.machine is None else travellers).append(held)
                    changed = True
            if changed:
                self._work.notify_all()
                self._changed.notify_all()
        for held in travellers:
            self._apart(held)
        return changed

    def _cancel(self, held: Held) -> None:
        held.cancelled = True
        if held in self._queue:
            self._queue.remove(held)
            self._forget(held)
        for parcel in [parcel for parcel in self._outbox if parcel.held is held]:
            self._outbox.remove(parcel)
            self._forget(held)

    def _forget(self, held: Held) -> None:
        """Hold it no longer, but for a second copy, given again after the first was cancelled."""
        if self._held.get(held.order.id) is held:
            del self._held[held.order.id]

    def holding(self) -> tuple[OrderId, ...]:
        with self._lock:
            return tuple(order_id for order_id, held in self._held.items() if not held.cancelled)

    def doing(self) -> str:
        """One phrase for the eye."""
        with self._lock:
            if self._running is None:
                return "waiting" if self._sending is None else "sending"
            order = self._running.order
            subject = f" client {order.client}" if order.client is not None else ""
            subject = f" shard {order.shard}" if order.shard is not None else subject
            return _DOING[order.kind] + subject

    def alone(self, held: Held) -> bool:
        """Whether this is the only order there is."""
        with self._lock:
            return self._alone(held)

    def _alone(self, held: Held) -> bool:
        return len(self._held) == 1 and self._held.get(held.order.id) is held and not self._closed

    # --- the work thread

    def take(self) -> Held | None:
        """The next order to carry out, waiting for one; None when the board has been closed.

        A train order is not handed out while UPDATES_IN_MEMORY updates wait to be sent."""
        with self._lock:
            while not self._closed:
                if (held := self._next()) is not None:
                    self._queue.remove(held)
                    self._running = held
                    return held
                self._work.wait()
            return None

    def _next(self) -> Held | None:
        parcels = [*self._outbox, *([self._sending] if self._sending else [])]
        room = sum(isinstance(parcel.content, Encoded) for parcel in parcels) < UPDATES_IN_MEMORY
        ready = [held for held in self._queue if room or held.order.kind not in ("train", "initialize")]
        return min(ready, key=lambda held: _RANK[held.order.kind], default=None)

    def send_at_once(self, parcel: Parcel) -> bool:
        """Whether the work thread is to send this reply itself, as there is nothing else to do or to send."""
        held = parcel.held
        with self._lock:
            if self._sending or self._outbox or held.order.machine or not self._alone(held):
                return False
            self._running, self._sending = None, parcel
            return True

    def hand_over(self, parcel: Parcel) -> None:
        """The order has been carried out; its reply is to be sent, unless it was cancelled meanwhile."""
        with self._lock:
            if self._running is parcel.held:
                self._running = None
            if self._sending is parcel:  # at once, in vain
                self._sending = None
            if parcel.held.cancelled or self._expired:
                self._forget(parcel.held)
            elif parcel.held.order.machine is not None:
                parcel.held.content = parcel.content
            else:
                self._outbox.append(parcel)
            self._mail.notify_all()
            self._changed.notify_all()

    # --- the send thread

    def next_parcel(self) -> Parcel | None:
        """The next reply to send, waiting for one; None when the board is closed and no more will come."""
        with self._lock:
            self._mail.wait_for(
                lambda: self._outbox or self._expired or (self._closed and self._running is None)
            )
            self._sending = None if self._expired or not self._outbox else self._outbox.popleft()
            return self._sending

    # --- threads of clients with machines of their own

    def trained(self, held: Held) -> Encoded | OrderResult | None:
        """Queue it, and wait for what comes of it; None when it is no longer wanted."""
        with self._lock:
            if not self._ends(held):
                self._queue.append(held)
                self._work.notify_all()
            self._changed.wait_for(lambda: self._ends(held) or held.content is not None)
            return None if self._ends(held) else held.content

    def rest(self, seconds: Seconds, held: Held) -> bool:
        """Wait so long. False, at once, when it is no longer wanted or the worker leaves."""
        with self._lock:
            return not self._changed.wait_for(lambda: self._ends(held), seconds)

    def until_unwanted(self, held: Held) -> None:
        with self._lock:
            self._changed.wait_for(lambda: self._ends(held))

    def _ends(self, held: Held) -> bool:
        return held.cancelled or self._closed

    # --- any of them

    def drop(self, held: Held) -> None:
        """The order is done with: its reply was accepted, is no longer wanted, or there is none."""
        with self._lock:
            self._forget(held)
            if self._running is held:
                self._running = None
            if self._sending is not None and self._sending.held is held:
                self._sending = None
            if self._queue:  # there is room for another update
                self._work.notify_all()
            if self._closed:  # the send thread may have waited for this one only
                self._mail.notify_all()
            self._changed.notify_all()

    def pause(self, seconds: Seconds, held: Held | None = None) -> bool:
        """Wait before another try, less when the aggregator is back. False: give up, `held` is not wanted."""
        with self._lock:
            news = self._news
            self._changed.wait_for(lambda: self._over(held) or self._news != news, seconds)
            return not self._over(held)

    def unwanted(self, held: Held) -> bool:
        """Whether to abandon what is being done for `held`."""
        return held.cancelled or self._expired

    def _over(self, held: Held | None) -> bool:
        return self._expired or (self._closed if held is None else held.cancelled)

    def nudge(self) -> None:
        """The aggregator is back, or has given a new session: try again now."""
        with self._lock:
            self._news += 1
            self._changed.notify_all()

    # --- leaving

    @property
    def closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        """Start nothing more; what is running or being sent may end."""
        with self._lock:
            self._closed = True
            for held in self._queue:
                del self._held[held.order.id]
            self._queue.clear()
            self._tell_all()

    def wait_until_idle(self, seconds: Seconds) -> bool:
        """Wait for what is running or being sent; False when it took longer than this."""
        with self._lock:
            return self._changed.wait_for(
                lambda: self._running is None and self._sending is None and not self._outbox, seconds
            )

    def expire(self) -> None:
        """Abandon what is left."""
        with self._lock:
            self._closed = self._expired = True
            self._tell_all()

    def _tell_all(self) -> None:
        for condition in (self._work, self._mail, self._changed):
            condition.notify_all()
