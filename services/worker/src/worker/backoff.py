"""How long to wait before the next try: exponential, capped, with jitter so that workers do not keep step."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from roundtable.types import Seconds


@dataclass
class Backoff:
    """first, 2·first, 4·first … up to `cap`, each shortened by up to half at random; `reset` on success."""

    random: Random
    first: Seconds = 0.1
    cap: Seconds = 5.0
    tries: int = field(default=0, init=False)

    def next(self) -> Seconds:
        delay = min(self.first * 2.0 ** min(self.tries, 30), self.cap)
        self.tries += 1
        return delay * (0.5 + 0.5 * self.random.random())

    def reset(self) -> None:
        self.tries = 0
