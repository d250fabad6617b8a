"""What a section's records come to: for each cell its measures with intervals.

Made of the records alone. A cell that was planned and has no record, and a repeat that failed, are rows too.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from lab.study.cells import Cell, cells
from lab.study.intervals import Interval, interval
from lab.study.measures import Measure, named, target_of
from lab.study.records import CellRecord, Repeat
from lab.study.schema import Factor, Published, Section, Study, level_name

ALIKE = 0.05  # of the examples: as many, for what is learned from them


@dataclass(frozen=True)
class Row:
    """One cell."""

    cell: Cell
    record: CellRecord | None
    told: Mapping[str, str] = field(default_factory=dict)  # factor → level in words; of what is varied
    mixed: bool = False  # a baseline, which has a real clock, beside cells with a virtual one

    @property
    def finished(self) -> tuple[Repeat, ...]:
        repeats = self.record.repeats if self.record else ()
        return tuple(repeat for repeat in repeats if repeat.state == "finished")

    @property
    def failed(self) -> tuple[Repeat, ...]:
        repeats = self.record.repeats if self.record else ()
        return tuple(repeat for repeat in repeats if repeat.state == "failed")

    @property
    def name(self) -> str:
        if self.cell.kind == "centralized":
            return "in one place"
        return ", ".join(self.told.values()) or "federated"

    @property
    def examples(self) -> dict[int, int]:
        """How many each finished repeat trained on, by seed; those of updates that were accepted."""
        epochs = self.cell.experiment.training.epochs
        return {r.seed: epochs * sum(x.num_examples for x in r.rounds) for r in self.finished}

    @property
    def ends_early(self) -> bool:
        """Whether a run ends when it has learned enough, and so after as many rounds as that takes."""
        stop = self.cell.experiment.stop
        return stop.accuracy is not None or stop.patience is not None

    def of(self, measure: Measure) -> Interval:
        return interval(list(self.by_seed(measure).values()), self.step(measure))

    def step(self, measure: Measure) -> float:
        """What it is known to: what a run takes up to an evaluation, to as much as lies between two.

        That is up to a target, or up to its end where it ends early.
        """
        if not (measure.target or (measure.total and self.ends_early)):
            return statistics.fmean(map(measure.rounding, self.finished)) if self.finished else 0.0
        added = [value for repeat in self.finished if (value := measure.of_round(repeat)) is not None]
        return self.cell.experiment.evaluation.every * statistics.fmean(added) if added else 0.0

    def by_seed(self, measure: Measure) -> dict[int, float | None]:
        """None for a repeat that has no value, as where it did not reach the target.

        Nor has one that failed learned anything: those that did not fail are the lucky ones. Empty where a
        baseline's real seconds would stand among virtual ones, and for bytes that in one place nobody need
        move.
        """
        if (measure.clocked and self.mixed) or (measure.moved and self.cell.kind == "centralized"):
            return {}
        failed = self.failed if measure.learned or measure.target else ()
        return {repeat.seed: measure.of(repeat) for repeat in (*self.finished, *failed)}


@dataclass(frozen=True)
class Comparison:
    """A published figure beside ours."""

    figure: Published
    row: Row
    measure: Measure
    ours: Interval


@dataclass(frozen=True)
class Summary:
    section: Section
    rows: tuple[Row, ...]  # federated, in the study's order
    baselines: tuple[Row, ...]

    @property
    def study(self) -> Study:
        return self.section.study

    @property
    def factors(self) -> list[Factor]:
        """Those that are varied; all where none is."""
        return [factor for factor in self.study.factors if factor.name in self.rows[0].told]

    @property
    def learns(self) -> bool:
        """Whether it asks what is learned, not only what it costs."""
        asked = (named(name, self.study) for name in self.study.outcomes)
        return target_of(self.study) is not None or any(measure.better > 0 for measure in asked)

    @property
    def ends_at(self) -> float | None:
        """The accuracy that ends runs, where one does."""
        ends = [row.cell.experiment.stop.accuracy for row in self.rows]
        return next((end for end in ends if end is not None), None)

    @property
    def clock(self) -> str:
        """Which of the two clocks its times are of."""
        clocks = {row.cell.experiment.machines.clock for row in self.rows}
        return f"{clocks.pop()} clock" if len(clocks) == 1 else "clock that each cell names"

    @property
    def of_clocks(self) -> Factor | None:
        """The factor that sets the clock, where one does: each of its levels has one, not all the same."""
        for factor in self.factors:
            clocks: dict[str, set[str]] = {}
            for row in self.rows:
                clocks.setdefault(row.cell.levels[factor.name], set()).add(row.cell.experiment.machines.clock)
            if all(len(own) == 1 for own in clocks.values()) and len(set().union(*clocks.values())) == 2:
                return factor
        return None

    @property
    def records(self) -> list[CellRecord]:
        return [row.record for row in (*self.rows, *self.baselines) if row.record is not None]

    @cached_property
    def outcomes(self) -> tuple[Measure, ...]:
        """Those that are compared: what runs that end at an accuracy have learned by then is not."""
        asked = (self._told(named(name, self.study)) for name in self.study.outcomes)
        return tuple(measure for measure in asked if self.ends_at is None or not measure.learned)

    @cached_property
    def columns(self) -> tuple[Measure, ...]:
        """Of the table: the outcomes, then what reaching the target takes; energy where it was measured."""
        names = list(self.study.outcomes)
        if target_of(self.study) is not None:
            names += [
                "rounds_to_target",
                "seconds_to_target",
                "bytes_to_target",
                "cpu_to_target",
                "joules_to_target",
            ]
        else:
            names += ["seconds", "bytes", "cpu_seconds", "joules"]
        columns = [named(name, self.study) for name in dict.fromkeys(names)]
        measured = any(repeat.joules is not None for row in self.rows for repeat in row.finished)
        return tuple(column for column in columns if measured or not column.name.startswith("joules"))

    @property
    def learned(self) -> Measure | None:
        """The outcome that federated and centralized training are compared by."""
        if any(self.baseline_of(row) is not None and self.as_many(row) for row in self.rows):
            for measure in self.outcomes:
                if measure.better > 0 and any(row.of(measure).n for row in self.baselines):
                    return measure
        return None

    def _told(self, measure: Measure) -> Measure:
        """A time says in its name which clock it is of: it may stand beside one of the other."""
        if measure.name == "round_seconds":
            return replace(measure, label=f"{measure.label} (real clock)")
        which = self.clock if self.clock in ("real clock", "virtual clock") else "each cell's clock"
        return replace(measure, label=f"{measure.label} ({which})") if measure.clocked else measure

    def baseline_of(self, row: Row) -> Row | None:
        return next((found for found in self.baselines if row.cell.id in found.cell.beside), None)

    def title(self, row: Row) -> str:
        """The row's name, told apart from other baselines: in one place, for split, 3."""
        if row.cell.kind != "centralized" or len(self.baselines) == 1:
            return row.name
        names = [own.name for own in self.rows if own.cell.id in row.cell.beside]
        return f"{row.name}, for {names[0]}" + (" …" if len(names) > 1 else "")

    def gap(self, row: Row) -> float:
        """Examples beyond those of its baseline, as a share of these; of the seed where that is most."""
        baseline = self.baseline_of(row)
        theirs = {} if baseline is None else baseline.examples
        gaps = [own / theirs[seed] - 1 for seed, own in row.examples.items() if theirs.get(seed)]
        return max(gaps, key=abs, default=0.0)

    def as_many(self, row: Row) -> bool:
        """Whether it may be held against training in one place: neither ends early, or has seen far less."""
        return not row.ends_early and abs(self.gap(row)) <= ALIKE

    def share_of_centralized(self, row: Row, measure: Measure) -> Interval | None:
        """In %, seed by seed: the same data, as many examples, the same first weights."""
        baseline = self.baseline_of(row)
        if baseline is None or measure.better <= 0 or not self.as_many(row):
            return None
        theirs = baseline.by_seed(measure)
        own = row.by_seed(measure)
        pairs = [(value, theirs[seed]) for seed, value in own.items() if seed in theirs]
        return interval(
            [100 * value / whole if value is not None and whole else None for value, whole in pairs]
        )

    def compared(self, factor: Factor) -> list[Row]:
        """Cells that show what this factor does: all of a grid, or those where the others rest."""
        if self.study.design == "grid":
            return list(self.rows)
        rest = {
            other.name: level_name(other.levels[0]) for other in self.study.factors if other is not factor
        }
        return [row for row in self.rows if all(row.cell.levels[name] == at for name, at in rest.items())]

    def comparisons(self) -> list[Comparison]:
        found = []
        for figure in self.study.published:
            if figure.value is None:
                continue
            measure = named(figure.measure, self.study)
            for row in self.beside(figure):
                found.append(Comparison(figure, row, measure, row.of(measure)))
        return found

    def beside(self, figure: Published) -> list[Row]:
        """The rows that a published figure belongs to."""
        return [
            row
            for row in (self.baselines if figure.centralized else self.rows)
            if all(row.cell.levels.get(name) == level_name(at) for name, at in figure.cells.items())
        ]


def summary(section: Section, records: Mapping[str, CellRecord]) -> Summary:
    """`records`: by cell."""
    planned = cells(section)
    factors = section.study.factors
    varied = [factor for factor in factors if len(factor.levels) > 1] or factors
    virtual = {cell.id for cell in planned if cell.experiment.machines.clock == "virtual"}
    rows = [
        Row(
            cell,
            records.get(cell.id),
            {factor.name: factor.told(cell.levels[factor.name]) for factor in varied if cell.levels},
            bool(virtual.intersection(cell.beside)),
        )
        for cell in planned
    ]
    federated = tuple(row for row in rows if row.cell.kind == "federated")
    return Summary(section, federated, tuple(row for row in rows if row.cell.kind == "centralized"))
