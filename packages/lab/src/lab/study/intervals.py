"""Means with 95 % intervals, and what may be said of two of them. Pure.

Student's t on the repeats of a cell. Two levels are compared seed by seed: the repeats of one seed have the
same draw of the data and the same first weights, so that what these do to both is no part of the difference
(Student's t on the differences; Box, Hunter and Hunter, Statistics for Experimenters, 2005, chapter 3).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from scipy import stats

LEVEL = 0.95
_ROUNDING = 1e-9  # of the values: what sums of the same numbers may differ by
Verdict: TypeAlias = Literal[
    "difference",
    "the same",  # in every repeat
    "not after Holm",  # its own interval leaves out 0, but not once the other levels are allowed for
    "no difference shown",
    "too few repeats",
    "not in every repeat",
]


class _Around:
    """What has a mean, and a 95 % interval of Student's t around it where there are two values or more."""

    @property
    def mean(self) -> float | None:
        raise NotImplementedError

    @property
    def half(self) -> float | None:
        """Half its width."""
        raise NotImplementedError

    @property
    def low(self) -> float | None:
        return None if self.mean is None or self.half is None else self.mean - self.half

    @property
    def high(self) -> float | None:
        return None if self.mean is None or self.half is None else self.mean + self.half


@dataclass(frozen=True)
class Interval(_Around):
    """The mean of n values, and the 95 % interval around it where n > 1.

    `asked`: repeats that finished; where it is of what was learned, or of a target, those that failed too.

    Of some that reached a target there is no interval: they are the lucky ones, not a sample of all.
    `step`: what the values are known to. Even where they are all alike their spread is not taken for less
    than that of its rounding, step ÷ √12 (Sheppard 1898).
    """

    values: tuple[float, ...]
    asked: int
    step: float = 0.0

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
        if self.n < 2 or not self.whole:
            return None
        spread = max(statistics.stdev(self.values), self.step / math.sqrt(12))
        return _half(spread / math.sqrt(self.n), self.n)

    @property
    def alike(self) -> bool:
        """Whether all values are the very same."""
        return self.n > 1 and min(self.values) == max(self.values)

    @property
    def another(self) -> tuple[float, float] | None:
        """Where one more value would lie with 95 %: what a single run elsewhere may be held against.

        The prediction interval, mean ± t·s·√(1 + 1/n), wider than that of the mean.
        """
        if self.mean is None or self.half is None:
            return None
        half = self.half * math.sqrt(self.n + 1)
        return self.mean - half, self.mean + half


def _half(error: float, n: int) -> float:
    """Half the width of the interval of a mean of n values whose standard error is `error`."""
    return float(stats.t.ppf(0.5 + LEVEL / 2, n - 1)) * error


def interval(values: Sequence[float | None], step: float = 0.0) -> Interval:
    """Of those that are there."""
    return Interval(tuple(value for value in values if value is not None), len(values), step)


@dataclass(frozen=True)
class Difference(_Around):
    """`b` − `a`, over the seeds that both have finished: `each` is the differences, one a seed.

    Nothing is told of some seeds alone, as of those that reached a target. The spread of the differences is
    not taken for less than that of the rounding at either side (`Interval.step`). Without any spread it is a
    fact where it is of what is counted; of what was learned, such as shares of a few examples, it is a
    coincidence.
    """

    a: Interval
    b: Interval
    each: Interval
    learned: bool = False

    @property
    def mean(self) -> float | None:
        return self.each.mean if self.each.whole else None

    @property
    def half(self) -> float | None:
        """For this one comparison alone."""
        return None if self._error is None else _half(self._error, self.each.n)

    @property
    def constant(self) -> bool:
        """Whether it is the same in each of two repeats or more."""
        return self.each.n > 1 and max(self.each.values) - min(self.each.values) <= self._rounding

    @property
    def p(self) -> float | None:
        """Of the paired t test, two-sided: how likely it is so large by chance where there is none."""
        if self.mean is None or self._error is None:
            return None
        if self.constant and abs(self.mean) <= self._rounding:
            return 1.0
        if self._error <= self._rounding:
            return 0.0  # a fact, such as a time on the virtual clock: there is no spread to test
        return float(2 * stats.t.sf(abs(self.mean) / self._error, self.each.n - 1))

    def verdict(self, adjusted: float | None) -> Verdict:
        """`adjusted`: `p`, allowing for the other comparisons beside it (`holm`).

        Where some repeats have no value nothing is said: those that have are the lucky ones.
        """
        if not self.each.whole:
            return "not in every repeat"
        if self.p is None or adjusted is None:
            return "too few repeats"
        if self.constant and self.p == 1.0 and not (self.a.step or self.b.step):
            return "the same"
        if self.p >= 1 - LEVEL:
            return "no difference shown"
        return "difference" if adjusted < 1 - LEVEL else "not after Holm"

    @property
    def g(self) -> float | None:
        """Hedges' g (1981): in standard deviations of either side's values, pooled; nothing without spread.

        Where a side's values are means over cells it is their spread that counts, which is less than that of
        single runs.
        """
        freedom = self.a.n + self.b.n - 2
        if self.a.n < 2 or self.b.n < 2 or self.mean is None:
            return None
        pooled = sum((side.n - 1) * statistics.variance(side.values) for side in (self.a, self.b)) / freedom
        if pooled <= self._rounding**2:
            return None
        return self.mean / math.sqrt(pooled) * (1 - 3 / (4 * freedom - 1))

    @property
    def _error(self) -> float | None:
        """The standard error of its mean, where that is known."""
        if self.each.n < 2 or not self.each.whole:
            return None
        spread = max(statistics.stdev(self.each.values), math.hypot(self.a.step, self.b.step) / math.sqrt(12))
        if self.learned and spread <= self._rounding < abs(statistics.fmean(self.each.values)):
            return None
        return spread / math.sqrt(self.each.n)

    @property
    def _rounding(self) -> float:
        return _ROUNDING * max(map(abs, (*self.a.values, *self.b.values)), default=0.0)


def paired(
    a: Mapping[int, float | None],
    b: Mapping[int, float | None],
    steps: tuple[float, float] = (0.0, 0.0),
    learned: bool = False,
) -> Difference:
    """Of values by seed, None where a finished repeat has none; seeds that one of them lacks are left out.

    `steps`: what those of `a` and those of `b` are known to.
    """
    seeds = sorted(a.keys() & b.keys())
    both = [(a[seed], b[seed]) for seed in seeds]
    each = [None if one is None or other is None else other - one for one, other in both]
    one, other = (interval([pair[side] for pair in both], steps[side]) for side in (0, 1))
    return Difference(one, other, interval(each), learned)


def holm(chances: Sequence[float | None]) -> list[float | None]:
    """Each p made so much larger that all claims below 5 % together are wrong in at most 5 % (Holm 1979).

    `None` is of a comparison that cannot be made, and is not counted.
    """
    order = sorted((p, at) for at, p in enumerate(chances) if p is not None)
    adjusted: list[float | None] = [None] * len(chances)
    least = 0.0
    for rank, (p, at) in enumerate(order):
        least = max(least, min(1.0, p * (len(order) - rank)))
        adjusted[at] = least
    return adjusted
