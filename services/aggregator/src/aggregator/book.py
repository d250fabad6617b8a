"""The book of open orders: what is wanted and not in yet, who has it, and under which attempt number.

Bookkeeping for `rounds`, which decides; nothing here speaks to anyone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from roundtable.errors import NotAsked, RoundtableError, Superseded
from roundtable.types import WorkerId

from aggregator.events import Give, Key, Withdraw
from aggregator.terms import Issued


@dataclass
class Open:
    """One order that is wanted. `attempt` and `worker` are of its latest issue, perhaps lost since."""

    attempt: int = 0  # 0: never issued
    worker: WorkerId | None = None
    failures: int = 0  # attempts that ended in a failure
    spoilt: bool = False  # the latest attempt is over: even the same worker gets another number


class Book:
    def __init__(self, issued: Mapping[Key, Issued]) -> None:
        self.open: dict[Key, Open] = {}
        self.idle: set[Key] = set()  # of the open ones: those that nobody present holds
        self.held: dict[WorkerId, set[Key]] = {}
        self._issued = dict(issued)  # before a restart
        self._done: dict[Key, Open] = {}  # closed, and perhaps wanted again

    def want(self, keys: Iterable[Key]) -> None:
        """Attempts go on counting where an earlier issue is known."""
        for key in keys:
            self.open[key] = self._done.pop(key, None) or Open(*self._issued.pop(key, (0, None)))
            self.idle.add(key)

    def give(self, key: Key, worker: WorkerId) -> Give:
        """To the worker that had it: the same attempt goes on. To another: the next attempt."""
        order = self.open[key]
        if order.worker != worker or order.spoilt:
            order.attempt, order.worker, order.spoilt = order.attempt + 1, worker, False
        self.idle.discard(key)
        self.held.setdefault(worker, set()).add(key)
        return Give(worker, key, order.attempt)

    def let_go(self, key: Key) -> Withdraw | None:
        """Take it from whoever holds it; it is still wanted."""
        order = self.open[key]
        if key in self.idle or order.worker is None:
            return None
        self.held[order.worker].discard(key)
        self.idle.add(key)
        return Withdraw(order.worker, key, order.attempt)

    def close(self, key: Key) -> Withdraw | None:
        """It is in, or no longer wanted."""
        withdrawn = self.let_go(key)
        self._done[key] = self.open.pop(key)
        self.idle.discard(key)
        return withdrawn

    def forget(self, round_number: int) -> None:
        """Orders of rounds before this one will not be wanted again."""
        self._done = {key: order for key, order in self._done.items() if key.round >= round_number}

    def gone(self, worker: WorkerId) -> None:
        """Whatever the worker held is nobody's now."""
        self.idle |= self.held.pop(worker, set())

    def scatter(self) -> None:
        """Everything has to be given anew; attempts stay."""
        for worker in list(self.held):
            self.gone(worker)

    def load(self, worker: WorkerId) -> int:
        return len(self.held.get(worker, ()))

    def fault(self, key: Key, attempt: int, worker: WorkerId) -> RoundtableError | None:
        """Why this worker's reply to an open order cannot be taken; None: it is the one that is awaited."""
        order = self.open[key]
        if attempt == order.attempt and worker == order.worker and not order.spoilt:
            return None
        if 0 < attempt < order.attempt or (attempt == order.attempt and order.spoilt):
            return Superseded(
                f"attempt {attempt} of this order was given up for attempt {order.attempt}: drop it"
            )
        return NotAsked(f"worker {worker} was not asked for attempt {attempt} of this order: drop it")
