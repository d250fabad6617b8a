"""Studies and records that never were, for tests that need figures but no processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab import machine
from lab.study.cells import Cell, cells
from lab.study.files import load
from lab.study.records import CellRecord, Repeat, RoundFigures
from lab.study.schema import Section
from lab.study.versions import Versions
from roundtable.experiment import Experiment

TINY = """
name = "tiny"
repeats = 3
target = 0.8
outcomes = ["accuracy", "rounds_to_target"]
{more}

[experiment]
task = "digits"

[experiment.clients]
count = 4

[experiment.rounds]
count = 3

[[factors]]
name = "clients"
field = "clients.count"
levels = {levels}
"""


def tiny(folder: Path, levels: str = "[2, 8]", more: str = "") -> Path:
    path = folder / "tiny.toml"
    path.write_text(TINY.format(levels=levels, more=more))
    return path


def section(path: Path) -> Section:
    return load(path)[1][0]


def a_repeat(seed: int, accuracies: tuple[float, ...], **changes: Any) -> Repeat:
    rounds = tuple(
        RoundFigures(
            round=number,
            accuracy=accuracy,
            loss=1 - accuracy,
            num_examples=100,
            seconds=0.5,
            committed=1000.0 + number,
            bytes_up=1_000_000,
            bytes_down=1_000_000,
            clients=4,
            cpu_seconds=0.25,
        )
        for number, accuracy in enumerate(accuracies, 1)
    )
    body: dict[str, Any] = {
        "seed": seed,
        "state": "finished",
        "run": f"run-{seed}",
        "began": 1000.0 + 10 * seed,
        "ended": 1002.0 + 10 * seed,
        "rounds": rounds,
        "data_hash": "d" * 64,
        "weights_hash": "e" * 64,
    }
    return Repeat(**(body | changes))


def a_record(section: Section, cell: Cell, repeats: tuple[Repeat, ...]) -> CellRecord:
    return CellRecord(
        section=section,
        cell=cell.id,
        kind=cell.kind,
        levels=cell.levels,
        beside=cell.beside,
        experiment=cell.experiment,
        versions=versions(section),
        environment=machine.here(),
        where="native, 2 workers",
        repeats=repeats,
    )


def versions(section: Section, **changes: Any) -> Versions:
    body: dict[str, Any] = {
        "study": section.digest,
        "code": "c" * 64,
        "git_commit": "0123456789",
        "packages": {"numpy": "2.0"},
        "task": "t" * 64,
        "labels": "1" * 64,
    }
    return Versions(**(body | changes))


def records(section: Section, accuracy: Callable[[Cell, int], float]) -> dict[str, CellRecord]:
    """Every cell with three repeats that end at `accuracy(cell, seed)`."""
    return {
        cell.id: a_record(
            section,
            cell,
            tuple(a_repeat(seed, (0.3, 0.6, accuracy(cell, seed))) for seed in (1, 2, 3)),
        )
        for cell in cells(section)
    }


@dataclass
class MadeUp:
    """A sitting whose runs take no time: what `Conduct` asks of one."""

    outcome: Callable[[Experiment], Repeat]
    workers: int = 2
    environment: dict[str, str] = field(default_factory=dict)
    carried: list[tuple[str, int]] = field(default_factory=list)
    kept: list[tuple[str, int]] = field(default_factory=list)  # those whose weights were asked for

    def start(self) -> None: ...

    def carry_out(
        self,
        experiment: Experiment,
        limit: float,  # noqa: ARG002
        keep: bool = False,
        fresh: bool = False,  # noqa: ARG002
    ) -> Repeat:
        self.carried.append((experiment.name, experiment.seed))
        if keep:
            self.kept.append(self.carried[-1])
        return self.outcome(experiment)
