"""From a study to its cells: one experiment for each combination of levels, and for each baseline.

Pure: no file, no clock. A cell is one point of the study, run once for each seed. The centralized baseline is
an experiment too, with one client that holds all the data of the cell's clients, trained by the same traced
step over as many samples as they: `rounds of the cell × share of the data seen a round` epochs.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from roundtable.errors import InvalidExperiment
from roundtable.experiment import Experiment, parse
from roundtable.toml import Tables

from lab.study.files import merged
from lab.study.schema import Factor, InvalidStudy, Level, Section, level_name, shown

CENTRALIZED = "centralized"
LONGEST = 200  # letters of a cell's id: a file's name, with what is put around it, may have 255
_OF_THE_CELL = ("seed", "name")


@dataclass(frozen=True)
class Cell:
    """`levels`: factor → level. A baseline has none and says which cells it stands beside."""

    id: str
    kind: Literal["federated", "centralized"]
    levels: dict[str, str]
    experiment: Experiment  # with the first repeat's seed
    beside: tuple[str, ...] = ()
    typical_rounds: int | None = None

    def with_seed(self, seed: int) -> Experiment:
        return self.experiment.model_copy(update={"seed": seed})


def cells(section: Section) -> tuple[Cell, ...]:
    """The section's cells in its file's order, then its baselines. Raises InvalidStudy."""
    for factor in section.study.factors:
        _check_told_apart(section.key, factor)
    found, wrong = [], []
    for levels in _combinations(section):
        try:
            found.append(_cell(section, levels))
        except InvalidStudy as error:
            wrong += str(error).splitlines()
    if wrong:
        first = {
            line.split(": ", 2)[-1]: line for line in reversed(wrong)
        }  # one line a fault, not one a cell
        raise InvalidStudy("\n".join(reversed(first.values())))
    for factor in section.study.factors:
        _check_varies(section.key, factor, found)
    every = (*found, *_baselines(section, found))
    _check_length(section.key, every)
    return every


def _check_told_apart(key: str, factor: Factor) -> None:
    """Two levels of one slug would be one cell, run with the settings of the first and called both."""
    taken: dict[str, str] = {}
    for name in map(level_name, factor.levels):
        other = taken.setdefault(slug(name), name)
        if other != name:
            raise InvalidStudy(
                f"{key}: factor {factor.name}: levels: found {shown(other)} and {shown(name)}, both "
                f"{slug(name)} in a cell's name; allowed: levels that differ in more than capitals and signs"
            )


def _check_varies(key: str, factor: Factor, found: list[Cell]) -> None:
    """Its levels must be told apart by more than their names somewhere, or it is the same runs once more."""
    beside: dict[frozenset[tuple[str, str]], list[str]] = {}
    for cell in found:
        others = frozenset((name, level) for name, level in cell.levels.items() if name != factor.name)
        beside.setdefault(others, []).append(cell.experiment.digest)
    if len(factor.levels) > 1 and all(len(set(digests)) == 1 for digests in beside.values()):
        raise InvalidStudy(
            f"{key}: factor {factor.name}: levels: found {len(factor.levels)} that change nothing of what is "
            "run; allowed: levels that do"
        )


def _check_length(key: str, found: tuple[Cell, ...]) -> None:
    cell = max(found, key=lambda cell: len(cell.id))
    if len(cell.id) > LONGEST:
        raise InvalidStudy(
            f"{key}: cell {cell.id[:30]}…: found a name of {len(cell.id)} letters, made of its factors and "
            f"levels; allowed: at most {LONGEST}, for it names a file: shorten the names of levels"
        )


def _combinations(section: Section) -> Iterator[dict[str, tuple[Factor, object]]]:
    factors = section.study.factors
    if section.study.design == "grid":
        for combination in itertools.product(*(factor.levels for factor in factors)):
            yield {f.name: (f, level) for f, level in zip(factors, combination, strict=True)}
        return
    base: dict[str, tuple[Factor, object]] = {f.name: (f, f.levels[0]) for f in factors}
    yield base
    for factor in factors:
        for level in factor.levels[1:]:
            yield base | {factor.name: (factor, level)}


def _cell(section: Section, levels: dict[str, tuple[Factor, object]]) -> Cell:
    study = section.study
    body, names = study.experiment, {}
    touched: dict[str, str] = {}
    typical = study.typical_rounds
    for name, (factor, level) in levels.items():
        assert isinstance(level, str | int | float | bool | Level)
        names[name] = level_name(level)
        if isinstance(level, Level):
            changes = level.set
            typical = max(filter(None, (typical, level.typical_rounds)), default=None)
        else:
            changes = {str(factor.field): level}
        _refuse_own(f"{section.key}: factor {name} = {names[name]}", changes)
        _refuse_twice(section.key, name, level, changes, touched)
        body = merged(body, changes)
        touched |= dict.fromkeys(_paths(changes), f"{name} = {names[name]}")
    id = "_".join(f"{name}-{slug(level)}" for name, level in names.items()) or "one"
    body = body | {"name": slug(f"{section.key}-{id}")[:60].strip("-"), "seed": study.seed(0)}
    try:
        return Cell(id, "federated", names, parse(body, section.key), typical_rounds=typical)
    except InvalidExperiment as error:
        lines = [_blamed(section.key, line, touched) for line in str(error).splitlines()]
        raise InvalidStudy("\n".join(lines)) from None


def _refuse_own(where: str, changes: Tables) -> None:
    for path in _paths(changes):
        if path in _OF_THE_CELL:
            raise InvalidStudy(
                f"{where}: {path}: found a field that each cell has of its own; allowed: any other field (a "
                "study's `seeds` are its repeats')"
            )


def _refuse_twice(key: str, factor: str, level: object, changes: Tables, touched: dict[str, str]) -> None:
    """Takes from `touched` what this level sets anew. Raises InvalidStudy where nothing would be left of
    another's, or where values of one field are in question: those would not be what they are called.
    """
    paths = (*_paths(changes), *_replaced(changes))
    for touch in [*touched]:
        if any(f"{path}.".startswith(f"{touch}.") or touch.startswith(f"{path}.") for path in paths):
            other = touched.pop(touch)
            if other not in touched.values() or not isinstance(level, Level):
                raise InvalidStudy(
                    f"{key}: factor {other}: {touch}: found a field that factor {factor} sets as well; "
                    "allowed: one of them: make one factor of the two, with levels { name, set }"
                )


def _replaced(changes: Tables, before: str = "") -> Iterator[str]:
    """Tables whose place others take as a whole (see `merged`)."""
    for path, value in changes.items():
        if isinstance(value, dict):
            if value.keys() & {"kind", "name"}:
                yield f"{before}{path}"
            yield from _replaced(value, f"{before}{path}.")


def _blamed(key: str, line: str, touched: dict[str, str]) -> str:
    """A fault of an experiment, with the factor and level that brought it about."""
    fault = line.removeprefix(f"{key}: ")
    path = fault.partition(":")[0]
    for touch, who in touched.items():
        if path == touch or path.startswith(f"{touch}.") or touch.startswith(f"{path}."):
            return f"{key}: factor {who}: {fault}"
    return f"{key}: experiment: {fault}"


def _paths(changes: Tables, before: str = "") -> Iterator[str]:
    for path, value in changes.items():
        if isinstance(value, dict):  # an empty one changes nothing
            yield from _paths(value, f"{before}{path}.")
        else:
            yield f"{before}{path}"


def slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.").replace(".", "p") or "x"


# --- training in one place ----------------------------------------------------------------------------------


def _baselines(section: Section, found: list[Cell]) -> Iterator[Cell]:
    """One for each different experiment that comes of it: cells that differ in their spread share one."""
    if not section.study.centralized:
        return
    beside: dict[str, list[Cell]] = {}
    baselines: dict[str, Experiment] = {}
    for cell in found:
        if cell.experiment.partition.kind == "pinned":
            raise InvalidStudy(
                f"{section.key}: centralized: found true, but nobody has all of pinned data; allowed: false"
            )
        if cell.experiment.partition.kind == "fixed" and cell.experiment.partition.overlap:
            raise InvalidStudy(
                f"{section.key}: centralized: found true, but clients whose data overlap hold no known part "
                "of them between them; allowed: false"
            )
        baseline = centralized(cell.experiment)
        baselines.setdefault(baseline.digest, baseline)
        beside.setdefault(baseline.digest, []).append(cell)
    for digest, own in beside.items():
        id = CENTRALIZED if len(beside) == 1 else f"{CENTRALIZED}_{own[0].id}"
        name = slug(f"{section.key}-{id}")[:60].strip("-")
        experiment = baselines[digest].model_copy(update={"name": name})
        typical = [cell.typical_rounds for cell in own]
        rounds = (
            None
            if None in typical
            else max(epochs(cell.experiment, cell.typical_rounds or 1) for cell in own)
        )
        yield Cell(id, "centralized", {}, experiment, tuple(cell.id for cell in own), rounds)


def centralized(experiment: Experiment) -> Experiment:
    """The same model and data in one place, over as many samples as the clients of `experiment` see.

    A round of it is one epoch. The optimizer starts anew with each, as it does in a client's round.
    """
    partition: Tables = {"kind": "iid"}
    if experiment.partition.kind == "fixed":  # exactly the examples that the clients hold between them
        partition = {"kind": "fixed", "size": experiment.partition.size * experiment.clients.count}
    every = max(round(experiment.evaluation.every * _share(experiment)), 1)
    body = {
        "name": experiment.name,
        "task": experiment.task,
        "task_options": experiment.task_options,
        "seed": experiment.seed,
        "clients": {"count": 1, "holdout": experiment.clients.holdout},
        "partition": partition,
        "training": experiment.training.model_dump() | {"epochs": 1},
        "rounds": {"count": epochs(experiment, experiment.rounds.count)},
        "evaluation": {"every": every, "shards": experiment.evaluation.shards},
        "stop": experiment.stop.model_dump(),
    }
    return parse(body)


def epochs(experiment: Experiment, rounds: int) -> int:
    """Over all the data, in one place, for as many samples as `rounds` of the experiment see."""
    return max(round(rounds * _share(experiment)), 1)


def _share(experiment: Experiment) -> float:
    """How often all the data is gone through in a round."""
    return experiment.training.epochs * experiment.cohort_size / experiment.clients.count
