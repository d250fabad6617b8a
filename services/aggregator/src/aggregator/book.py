"""The book of open orders: what is wanted and not in yet, who has it, and under which attempt number.

Bookkeeping for `rounds`, which decides what is wanted, and `dealing`, which finds who does it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain

from roundtable.errors import NotAsked, RoundtableError, Superseded
from roundtable.types import WorkerId

from aggregator.events import Give, Key, Kind, Withdraw
from aggregator.terms import Issued


@dataclass
class Open:
    """One order that is wanted. `attempt` and `worker` are of its latest issue, perhaps lost since."""

    attempt: int = 0  # 0: never issued
    worker: WorkerId | None = None
    failures: int = 0  # attempts that ended in a failure
    spoilt: bool = False  # the latest attempt is over: even the same worker gets another number
    issue: int = 0  # attempts of all orders, counted: the highest was issued last; 0: before a restart


class Book:
    def __init__(self, issued: Mapping[Key, Issued]) -> None:
        self.open: dict[Key, Open] = {}
        self.idle: dict[Kind, set[Key]] = {
            "initialize": set(),
            "train": set(),
            "evaluate": set(),
        }  # held by nobody
        self.held: dict[WorkerId, set[Key]] = {}
        self.changed = False  # something has become idle since it was last dealt out
        self._issued = dict(issued)  # before a restart
        self._issues = 0
        self._done: dict[Key, Open] = {}  # closed, and perhaps wanted again

    def want(self, keys: Iterable[Key]) -> None:
        """Attempts go on counting where an earlier issue is known."""
        for key in keys:
            done = key in self._done
            self.open[key] = self._done.pop(key) if done else Open(*self._issued.pop(key, (0, None)))
            self._idle(key)

    def give(self, key: Key, worker: WorkerId) -> Give:
        """To the worker that had it last: the same attempt goes on. To another: the next attempt."""
        order = self.open[key]
        if order.worker != worker or order.spoilt:
            self._issues += 1
            order.attempt, order.worker, order.spoilt = order.attempt + 1, worker, False
            order.issue = self._issues
        self.idle[key.kind].discard(key)
        self.held.setdefault(worker, set()).add(key)
        return Give(worker, key, order.attempt)

    def hand_on(self, key: Key, worker: WorkerId) -> tuple[Withdraw | None, Give]:
        """From whoever holds it to another, under the next attempt."""
        return self._take(key), self.give(key, worker)

    def reopen(self, key: Key, present: Collection[WorkerId]) -> None:
        """It did not get in after all: whoever sent it holds it still."""
        self.want([key])
        worker = self.open[key].worker
        if worker is not None and worker in present:
            self.give(key, worker)

    def spoil(self, key: Key) -> Withdraw | None:
        """Its latest attempt is over without a result; it is still wanted."""
        self.open[key].spoilt = True
        withdrawn = self._take(key)
        self._idle(key)
        return withdrawn

    def close(self, key: Key) -> Withdraw | None:
        """It is in, or no longer wanted."""
        withdrawn = self._take(key)
        self._done[key] = self.open.pop(key)
        self.idle[key.kind].discard(key)
        return withdrawn

    def gone(self, worker: WorkerId) -> None:
        """Whatever the worker held is nobody's now."""
        for key in self.held.pop(worker, set()):
            self._idle(key)

    def scatter(self) -> None:
        """Everything has to be given anew; attempts stay."""
        for worker in list(self.held):
            self.gone(worker)

    def forget(self, round_number: int) -> None:
        """Orders of rounds before this one will not be wanted again."""
        self._done = {key: order for key, order in self._done.items() if key.round >= round_number}

    def all_idle(self) -> list[Key]:
        """Training first: it takes longest, and updates travel while evaluations are made."""
        return list(chain(*(sorted(self.idle[kind]) for kind in ("initialize", "train", "evaluate"))))

    def hand(self, worker: WorkerId, kind: Kind) -> list[Key]:
        """What the worker holds of a kind, in the order in which it was issued: as it is carried out."""
        held = (key for key in self.held.get(worker, ()) if key.kind == kind)
        return sorted(held, key=lambda key: (self.open[key].issue, key))

    def load(self, worker: WorkerId) -> int:
        return len(self.held.get(worker, ()))

    def fault(self, key: Key, attempt: int, worker: WorkerId) -> RoundtableError | None:
        """Why this worker's reply to an open order cannot be taken; None: it is the one that is awaited."""
        order = self.open[key]
        if attempt == order.attempt and worker == order.worker and not order.spoilt:
            return None
        if 0 < attempt < order.attempt or (attempt == order.attempt and order.spoilt):
            return Superseded(f"attempt {attempt} of this order was given up, another counts: drop it")
        return NotAsked(f"worker {worker} was not asked for attempt {attempt} of this order: drop it")

    def _idle(self, key: Key) -> None:
        self.idle[key.kind].add(key)
        self.changed = True

    def _take(self, key: Key) -> Withdraw | None:
        order = self.open[key]
        if order.worker is None or key in self.idle[key.kind]:
            return None
        self.held[order.worker].discard(key)
        return Withdraw(order.worker, key, order.attempt)
