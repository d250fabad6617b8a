"""Means with 95 % intervals, and what may be said of two of them. Pure.

Student's t on the repeats of a cell; for a difference Welch's t, which does not take both spreads for equal.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from scipy import stats

LEVEL = 0.95
Verdict: TypeAlias = Literal["difference", "no difference shown", "too few repeats", "not in every repeat"]


@dataclass(frozen=True)
class Interval:
    """The mean of n values, and the 95 % interval around it where n > 1. `asked`: repeats that finished."""

    values: tuple[float, ...]
    asked: int

    @property
    def n(self) -> int:
        return len(self.values)

    @property
    def mean(self) -> float | None:
        return statistics.fmean(self.values) if self.values else None

    @property
    def whole(self) -> bool:
        """Whether every repeat has a value: the mean of those that reached a target is not that of all."""
        return self.n == self.asked

    @property
    def half(self) -> float | None:
        """Half its width."""
        if self.n < 2:
            return None
        spread = statistics.stdev(self.values)
        return float(stats.t.ppf(0.5 + LEVEL / 2, self.n - 1)) * spread / math.sqrt(self.n)

    @property
    def low(self) -> float | None:
        return None if self.mean is None or self.half is None else self.mean - self.half

    @property
    def high(self) -> float | None:
        return None if self.mean is None or self.half is None else self.mean + self.half

    def holds(self, value: float, upto: float | None = None) -> bool | None:
        """Whether `value`, or the range up to `upto`, lies in it at least in part."""
        if self.low is None or self.high is None:
            return None
        return self.low <= (value if upto is None else upto) and value <= self.high


def interval(values: Sequence[float | None]) -> Interval:
    """Of those that are there."""
    return Interval(tuple(value for value in values if value is not None), len(values))


@dataclass(frozen=True)
class Difference:
    """`b` − `a`: the means', its 95 % interval, and Hedges' g, the difference in standard deviations."""

    a: Interval
    b: Interval

    @property
    def mean(self) -> float | None:
        return None if self.a.mean is None or self.b.mean is None else self.b.mean - self.a.mean

    @property
    def verdict(self) -> Verdict:
        """A difference is claimed only where the two intervals do not overlap and leave no repeat out."""
        if self.a.low is None or self.a.high is None or self.b.low is None or self.b.high is None:
            return "too few repeats"
        if not (self.a.whole and self.b.whole):
            return "not in every repeat"
        apart = self.a.high < self.b.low or self.b.high < self.a.low
        return "difference" if apart else "no difference shown"

    @property
    def half(self) -> float | None:
        """Half the width of the difference's interval (Welch 1947)."""
        if self.a.n < 2 or self.b.n < 2:
            return None
        parts = [statistics.variance(side.values) / side.n for side in (self.a, self.b)]
        error = sum(parts)
        if error == 0:
            return 0.0
        freedom = error**2 / sum(
            part**2 / (side.n - 1) for part, side in zip(parts, (self.a, self.b), strict=True)
        )
        return float(stats.t.ppf(0.5 + LEVEL / 2, freedom)) * math.sqrt(error)

    @property
    def g(self) -> float | None:
        """Nothing where there is no spread to measure it by."""
        freedom = self.a.n + self.b.n - 2
        if self.a.n < 2 or self.b.n < 2 or self.mean is None:
            return None
        pooled = sum((side.n - 1) * statistics.variance(side.values) for side in (self.a, self.b)) / freedom
        if pooled == 0:
            return None
        return self.mean / math.sqrt(pooled) * (1 - 3 / (4 * freedom - 1))
