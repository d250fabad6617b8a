"""How well the two clocks agree, where a study has the same cells on both. Pure.

The factor that sets the clock is no cause of anything: its levels are two ways to take one time. So they are
held against each other as ratios, real ÷ virtual, for each combination of the other levels and seed by seed.
The mean is the geometric one and its interval Student's t of the logarithms: half and twice as long are
equally far from agreeing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from lab.study.claims import capital, listed
from lab.study.effects import strata
from lab.study.grids import Table
from lab.study.intervals import Interval, interval
from lab.study.measures import Measure, named
from lab.study.summary import Summary


@dataclass(frozen=True)
class Agreement:
    """The cells of one combination of other levels, `name`. `logs`: of real ÷ virtual, one value a seed."""

    name: str
    logs: Interval

    @property
    def ratios(self) -> list[float]:
        return [math.exp(value) for value in self.logs.values]

    @property
    def shown(self) -> str:
        """1.29 (1.02 to 1.62)."""
        assert self.logs.mean is not None
        told = f"{math.exp(self.logs.mean):.2f}"
        if self.logs.low is None or self.logs.high is None:
            return f"{told} (n = {self.logs.n})"
        return f"{told} ({math.exp(self.logs.low):.2f} to {math.exp(self.logs.high):.2f})"

    @property
    def apart(self) -> bool:
        """Whether its interval leaves out 1."""
        low, high = self.logs.low, self.logs.high
        return low is not None and high is not None and not low <= 0 <= high


def agreements(found: Summary, measure: Measure) -> list[Agreement]:
    """One for each combination that was run on both clocks."""
    factor = found.of_clocks
    return [] if factor is None or not measure.clocked else list(_agreements(found, measure))


def _agreements(found: Summary, measure: Measure) -> Iterator[Agreement]:
    assert found.of_clocks is not None
    for stratum in strata(found, found.of_clocks):
        times = {row.cell.experiment.machines.clock: row.by_seed(measure) for row in stratum.rows}
        real, virtual = times.get("real", {}), times.get("virtual", {})
        pairs = [(real[seed], virtual[seed]) for seed in sorted(real.keys() & virtual.keys())]
        logs = [math.log(one / other) if one and other else None for one, other in pairs]
        if any(value is not None for value in logs):
            yield Agreement(stratum.name, interval(logs))


def said(found: Summary, measure: Measure) -> str:
    """In how many pairs the real time was longer, by how much, and how well the clocks are shown to agree."""
    every = agreements(found, measure)
    ratios = [ratio for own in every for ratio in own.ratios]
    if not ratios:
        return ""
    longer, number = sum(ratio > 1 for ratio in ratios), len(ratios)
    label = capital(named(measure.name, found.study).label)
    told = (
        f"{label}: the real clock took longer than the virtual one says in {longer} of {number} pairs of a "
        f"seed; it took {min(ratios):.2f} to {max(ratios):.2f} times as long."
    )
    if ends := [end for own in every for end in (own.logs.low, own.logs.high) if end is not None]:
        low, high = math.exp(min(ends)), math.exp(max(ends))
        told += f" The 95 % intervals of that ratio reach from {low:.2f} to {high:.2f}: closer than that the"
        told += " clocks are not shown to agree."
    if apart := [own.name or "these machines" for own in every if own.apart]:
        told += f" They are shown to differ with {listed(apart)}."
    return told


def table(found: Summary) -> tuple[str, Table] | None:
    """Its title, and a line for each combination; nothing where no factor sets the clock."""
    measures = [m for m in found.outcomes if agreements(found, m)]
    if not measures:
        return None
    told: dict[str, dict[str, Agreement]] = {}
    for measure in measures:
        for agreement in agreements(found, measure):
            told.setdefault(agreement.name, {})[measure.name] = agreement
    head = ["with", *(named(m.name, found.study).label for m in measures), "seeds"]
    rows = []
    for name, own in told.items():
        cells = [own[m.name].shown if m.name in own else "–" for m in measures]
        rows.append((name or "all", *cells, str(max(one.logs.n for one in own.values()))))
    return "Real clock ÷ virtual clock, seed by seed (95 % interval)", Table(tuple(head), tuple(rows), 1)
