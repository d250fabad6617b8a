"""How long the round under way has taken: by the clock that never goes back, and only while it is worked on.

It stands while the run is paused or its aggregator is away, and is taken up where the store has it last.
"""

from __future__ import annotations

from dataclasses import dataclass

from roundtable.types import Seconds


@dataclass
class Stopwatch:
    started: Seconds = 0.0  # of the round's first trial: wall clock, for people
    taken: Seconds = 0.0  # until it was stopped last
    _since: Seconds | None = None  # monotonic; None: it stands

    def go_on(self, now: Seconds, wall: Seconds) -> None:
        """Where it runs already, nothing changes."""
        self.started = self.started or wall
        self._since = now if self._since is None else self._since

    def stop(self, now: Seconds) -> None:
        self.taken, self._since = self.read(now), None

    def read(self, now: Seconds) -> Seconds:
        return self.taken + (0.0 if self._since is None else now - self._since)
