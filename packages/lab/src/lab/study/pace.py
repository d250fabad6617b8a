"""How long a study will take, and how many repeats of it fit into a budget. Pure.

A round costs `client` seconds for each client that is asked, and `example` seconds for each example that a
worker goes through; a run costs `start` besides, and each evaluation `evaluation`. calibrate.py measures
these with two short runs a kind of training; what has been run since is a better guide and takes their place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from roundtable.experiment import Experiment
from roundtable.types import Seconds

from lab.study.cells import Cell


@dataclass(frozen=True)
class Rates:
    """Of one kind of training on this machine with so many workers; all in seconds."""

    start: Seconds  # a run's: model, trace, first weights
    client: Seconds
    example: Seconds  # of one worker
    evaluation: Seconds


def kind(experiment: Experiment) -> str:
    """Experiments of one kind train at the same rates."""
    training = experiment.training
    options = ",".join(f"{name}={value}" for name, value in sorted(experiment.task_options.items()))
    objective = experiment.strategy.objective.name
    return f"{experiment.task}({options}) {training.optimizer} B={training.batch_size} {objective}"


def estimate(cell: Cell, rates: Rates, examples: int, workers: int) -> Seconds:
    """Seconds that one repeat of the cell takes. `examples`: in the training set, dealt out evenly."""
    experiment = cell.experiment
    rounds = min(experiment.rounds.count, cell.typical_rounds or experiment.rounds.count)
    cohort = experiment.cohort_size
    asked = cohort * (1 + experiment.rounds.oversample)
    own: float = examples / experiment.clients.count
    if experiment.partition.kind == "fixed":
        own = experiment.partition.size
    seen = asked * own * experiment.training.epochs / min(cohort, workers)
    evaluations = -(-rounds // experiment.evaluation.every)
    each = asked * rates.client + seen * rates.example
    return rates.start + rounds * each + evaluations * rates.evaluation


@dataclass(frozen=True)
class Load:
    """A section's work: seconds of one repeat of all its cells, and how many repeats it is to have."""

    key: str
    seconds: Seconds  # one repeat of every cell
    repeats: int
    least: int
    done: float = 0.0  # repeats that are there already, in parts of a whole one

    @property
    def left(self) -> Seconds:
        return self.seconds * max(self.repeats - self.done, 0.0)


def total(loads: Sequence[Load]) -> Seconds:
    return sum(load.left for load in loads)


def trimmed(loads: Sequence[Load], budget: Seconds) -> tuple[Load, ...]:
    """Repeats taken away, the dearest first, until it fits or every section has its least."""
    current = list(loads)
    while total(current) > budget:
        spare = [load for load in current if load.repeats > max(load.least, load.done)]
        if not spare:
            break
        dearest = max(spare, key=lambda load: load.seconds)
        current[current.index(dearest)] = replace(dearest, repeats=dearest.repeats - 1)
    return tuple(current)


@dataclass
class Pace:
    """What each cell's repeat is expected to take: as measured once it has run, else as estimated."""

    estimates: Mapping[tuple[str, str], Seconds]  # (section, cell) → seconds
    measured: dict[tuple[str, str], list[Seconds]]

    def of(self, job: tuple[str, str]) -> Seconds:
        if taken := self.measured.get(job):
            return sum(taken) / len(taken)
        return self.estimates.get(job, 0.0) * self._ratio()

    def took(self, job: tuple[str, str], seconds: Seconds) -> None:
        self.measured.setdefault(job, []).append(seconds)

    def _ratio(self) -> float:
        """How much longer than estimated things have taken so far."""
        known = [job for job in self.measured if self.estimates.get(job)]
        expected = sum(self.estimates[job] for job in known)
        taken = sum(sum(self.measured[job]) / len(self.measured[job]) for job in known)
        return taken / expected if expected else 1.0
