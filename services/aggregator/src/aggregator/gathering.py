"""Whom a run waits for before it begins: enough workers, all that are coming, or as many as came in time.

Without I/O or a clock of its own: `lobby` says who is there and when, and is told when to look again. It
holds for a run that has not begun, and is not kept over a restart: the experiment that the service starts by
itself gathers anew, any other run then begins with whoever is there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from roundtable.types import Seconds, WorkerId

SETTLED: Final[Seconds] = 5.0  # the experiment of the service: nobody has joined for so long
PATIENCE: Final[Seconds] = 30.0  # a run that was asked for with `start_workers`: from when the first is there


@dataclass
class Gathering:
    """`wanted` workers are there and none has joined for `settled`; or `patience` has passed since the first
    was there (None: it waits as long as it takes).
    """

    wanted: int
    settled: Seconds = 0.0
    patience: Seconds | None = None
    _seen: set[WorkerId] = field(default_factory=set)
    _first: Seconds | None = None
    _latest: Seconds = 0.0

    def look(self, present: Iterable[WorkerId], now: Seconds) -> Seconds | None:
        """When the run may begin if nothing changes until then; None: not before somebody joins."""
        here = set(present)
        if here - self._seen:
            self._latest = now
            self._first = now if self._first is None else self._first
        self._seen = here  # one that comes back has joined again
        if not here or self._first is None:
            return None
        if len(here) >= self.wanted:
            return self._latest + self.settled
        return None if self.patience is None else self._first + self.patience

    def reason(self) -> str:
        """What is waited for, for the eye."""
        here = len(self._seen)
        if here >= self.wanted:
            return f"{_workers(here)} here: begins when none has joined for {self.settled:g} s"
        late = f", or for {self.patience:g} s after the first" if self.patience is not None else ""
        return f"waits for {_workers(self.wanted)}{late}: {here} here"


def _workers(count: int) -> str:
    return "1 worker" if count == 1 else f"{count} workers"
