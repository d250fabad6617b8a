"""What going from a factor's first level to another does to an outcome, compared seed by seed. Pure.

A level's value for a seed is the mean over the cells that have it, other factors averaged over, but never
over tasks or clocks: accuracies on MNIST and on clouds have no mean that means anything, so each task is a
`Stratum`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from lab.study.intervals import Difference, Interval, Verdict, holm, interval, paired
from lab.study.measures import Measure
from lab.study.schema import Factor, level_name
from lab.study.summary import Row, Summary


@dataclass(frozen=True)
class Stratum:
    """The cells of one task that show what `factor` does. `name`: which, where there are several."""

    factor: Factor
    rows: tuple[Row, ...]
    name: str = ""

    @property
    def levels(self) -> list[str]:
        """Those that have cells here."""
        there = {self._at(row) for row in self.rows}
        return [name for name in map(level_name, self.factor.levels) if name in there]

    def at(self, *levels: str) -> list[Row]:
        return [row for row in self.rows if self._at(row) in levels]

    @property
    def task(self) -> str:
        return self.rows[0].cell.experiment.task

    @property
    def clock(self) -> str:
        return self.rows[0].cell.experiment.machines.clock

    @property
    def even(self) -> tuple[Row, ...]:
        """Cells that levels are averaged over: of a grid run in part, only where every level has been run.

        Else one level's mean would have easy cells in it that another's lacks. What failed has been run: left
        out, the lucky combinations would stand for all.
        """
        beside: dict[tuple[str, ...], list[Row]] = {}
        for row in self.rows:
            beside.setdefault(self._others(row), []).append(row)
        whole = [rows for rows in beside.values() if all(row.finished or row.failed for row in rows)]
        return tuple(row for rows in whole or beside.values() for row in rows)

    @property
    def averaged(self) -> bool:
        """Whether there are several cells at a level, for its value to be the mean of."""
        return len(self.rows) > len(self.levels)

    def by_seed(self, level: str, measure: Measure) -> dict[int, float | None]:
        """Of seeds that every cell at this level has finished; None where one of them has no value."""
        cells = [row.by_seed(measure) for row in self.even if self._at(row) == level]
        seeds = set.intersection(*(set(cell) for cell in cells)) if cells else set()
        found: dict[int, float | None] = {}
        for seed in sorted(seeds):
            values = [value for cell in cells if (value := cell[seed]) is not None]
            found[seed] = sum(values) / len(values) if len(values) == len(cells) else None
        return found

    def parts(self, first: str, level: str, measure: Measure) -> Iterator[tuple[str, float]]:
        """`level` against `first` at each combination of other factors: its name, the mean of its pairs."""
        there = {self._others(row): row for row in self.even if self._at(row) == first}
        for row in self.even:
            if self._at(row) == level and (one := there.get(self._others(row))) is not None:
                difference = paired(one.by_seed(measure), row.by_seed(measure))
                names = (told for name, told in row.told.items() if name != self.factor.name)
                if difference.mean is not None:
                    yield ", ".join(names), difference.mean

    def _others(self, row: Row) -> tuple[str, ...]:
        return tuple(level for name, level in row.cell.levels.items() if name != self.factor.name)

    def _at(self, row: Row) -> str:
        return row.cell.levels[self.factor.name]

    def level(self, level: str, measure: Measure) -> Interval:
        return interval(list(self.by_seed(level, measure).values()), self.step(level, measure))

    def step(self, level: str, measure: Measure) -> float:
        """The mean of its cells': those of a seed may all end at one evaluation, so their roundings stay."""
        steps = [row.step(measure) for row in self.even if self._at(row) == level]
        return sum(steps) / len(steps) if steps else 0.0


@dataclass(frozen=True)
class Effect:
    """`level` against `reference`, the factor's first."""

    study: str
    factor: Factor
    stratum: Stratum
    reference: str
    level: str
    measure: Measure
    difference: Difference
    adjusted: float | None  # the difference's p, allowing for the factor's other levels (Holm)
    parts: tuple[tuple[str, float], ...] = ()  # the same at each combination of the other factors: name, mean

    @property
    def verdict(self) -> Verdict:
        return self.difference.verdict(self.adjusted)

    @property
    def uneven(self) -> list[tuple[str, float]]:
        """The smallest and the largest part, where one of them lies outside of the whole's interval."""
        low, high = self.difference.low, self.difference.high
        ends = sorted(self.parts, key=lambda part: part[1])
        if low is None or high is None or not ends or (low <= ends[0][1] and ends[-1][1] <= high):
            return []
        return [ends[0], ends[-1]]

    @property
    def factor_name(self) -> str:
        return self.factor.label or self.factor.name


def strata(found: Summary, factor: Factor) -> list[Stratum]:
    """One for each task, and for each clock; named by what sets them apart.

    Where the factor is what sets the clock, one for each combination of the others: machines whose clocks
    agree would hide those whose do not.
    """
    clocks = found.of_clocks
    apart: dict[tuple[str, ...], list[Row]] = {}
    for row in found.compared(factor):
        experiment = row.cell.experiment
        key: tuple[str, ...] = (experiment.task, experiment.machines.clock)
        if factor is clocks:
            key = tuple(level for name, level in row.cell.levels.items() if name != factor.name)
        apart.setdefault(key, []).append(row)
    if len(apart) < 2:
        return [Stratum(factor, tuple(rows)) for rows in apart.values()]
    return [Stratum(factor, tuple(rows), _apart(found, rows, factor)) for rows in apart.values()]


def _apart(found: Summary, rows: Sequence[Row], factor: Factor) -> str:
    """The levels of other factors that all of them have, a clock as one; their task where there is none."""
    first, *others = (row.told for row in rows)
    clocks = found.of_clocks
    same = [
        f"{rows[0].cell.experiment.machines.clock} clock" if clocks and name == clocks.name else level
        for name, level in first.items()
        if name != factor.name and all(other[name] == level for other in others)
    ]
    return ", ".join(same) or rows[0].cell.experiment.task


def effects_of(found: Summary, stratum: Stratum, measure: Measure) -> list[Effect]:
    """Every other level against the first; none where the first is not there, as in another task."""
    names = stratum.levels
    first = level_name(stratum.factor.levels[0])
    if first not in names:
        return []
    others = [name for name in names if name != first]
    values = stratum.by_seed(first, measure)
    steps = {name: stratum.step(name, measure) for name in names}
    differences = [
        paired(values, stratum.by_seed(name, measure), (steps[first], steps[name]), measure.learned)
        for name in others
    ]
    adjusted = holm([difference.p for difference in differences])
    return [
        Effect(
            found.study.name,
            stratum.factor,
            stratum,
            first,
            name,
            measure,
            difference,
            p,
            tuple(stratum.parts(first, name, measure)) if stratum.averaged else (),
        )
        for name, difference, p in zip(others, differences, adjusted, strict=True)
    ]


def effects(found: Summary) -> list[Effect]:
    """Of all factors, tasks and outcomes, in the study's order."""
    return [
        effect
        for factor in found.study.factors
        for stratum in strata(found, factor)
        for measure in found.outcomes
        for effect in effects_of(found, stratum, measure)
    ]


def ranked(summaries: Sequence[Summary]) -> dict[str, list[Effect]]:
    """By outcome, and task where they differ: of each factor the largest effect, the largest first.

    The largest of those that are shown, where any is: one that is not may be larger by chance alone.
    """
    every = [
        effect
        for found in summaries
        for effect in effects(found)
        if effect.difference.mean is not None
        if effect.factor is not found.of_clocks or not effect.measure.clocked  # two ways to take one time
    ]
    largest: dict[tuple[str, str, str], Effect] = {}  # outcome, study, factor
    for effect in every:
        key = (_outcome(effect, every), effect.study, effect.factor.name)
        if key not in largest or _rank(effect) > _rank(largest[key]):
            largest[key] = effect
    table: dict[str, list[Effect]] = {}
    order = sorted(largest.items(), key=lambda item: item[1].measure.better, reverse=True)  # learning first
    for (outcome, _, _), effect in order:
        table.setdefault(outcome, []).append(effect)
    return {outcome: sorted(found, key=_rank, reverse=True) for outcome, found in table.items()}


def _rank(effect: Effect) -> tuple[bool, bool, float]:
    """Those that are shown first, those of which nothing can be said last."""
    said = effect.verdict not in ("too few repeats", "not in every repeat")
    return effect.verdict == "difference", said, abs(effect.difference.mean or 0.0)


def _outcome(effect: Effect, every: Iterable[Effect]) -> str:
    """Points of one task's accuracy are not those of another's."""
    tasks = {other.stratum.task for other in every if other.measure.label == effect.measure.label}
    return f"{effect.measure.label} ({effect.stratum.task})" if len(tasks) > 1 else effect.measure.label
