"""What an experiment's data looks like from here: labels only, read through its task, without TensorFlow."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from roundtable.errors import InvalidData, InvalidInput, InvalidTask
from roundtable.experiment import Experiment
from roundtable.tasks import Found, Task, find
from roundtable.tasks.loading import blaming
from roundtable.tasks.pinned import check_classes
from roundtable.types import Array

from lab.native import Folders
from lab.results import Spread

TABLE_LIMIT = 20_000  # cells of a spread that result.json carries


@contextmanager
def calling(what: str) -> Iterator[None]:
    """A task's code runs in here: what it raises becomes InvalidTask, which says that `what` failed; what it
    prints goes to stderr, for stdout may be JSON.
    """
    with redirect_stdout(sys.stderr), blaming(what):
        yield


def task_of(experiment: Experiment, tasks: Path) -> Found:
    """Raises InvalidTask."""
    with calling(f"task {experiment.task}"):
        return find(experiment.task, experiment.task_options, tasks)


def draws(experiment: Experiment, tasks: Path) -> bool:
    """Whether a report shows pictures of this task's predictions, and what draws them is here."""
    try:
        task = task_of(experiment, tasks).task
    except InvalidTask:
        return False
    return type(task).pictures is not Task.pictures and find_spec("tensorflow") is not None


def described(experiment: Experiment, tasks: Path) -> str:
    """The data set in the task's words; nothing where it has none, or the task is not on this machine.

    What is wrong with `describe` is said by `spread`, before a run: none is lost to it afterwards.
    """
    try:
        return _words(experiment, task_of(experiment, tasks).task)
    except InvalidInput:
        return ""


def train_labels(experiment: Experiment, folders: Folders) -> Array:
    """One integer for each training example [n], checked as a worker will.

    Raises InvalidTask, InvalidData.
    """
    task = task_of(experiment, folders.tasks).task
    with calling(f"task {experiment.task}: its training data cannot be read"):
        labels = task.train_labels(folders.datasets)
    try:
        check_classes(task, labels)
    except InvalidData as error:
        raise InvalidData(
            f"task {experiment.task}: training set: {error}; put right what it reads in "
            f"{folders.datasets}, or the task itself"
        ) from None
    return labels


def spread(experiment: Experiment, folders: Folders) -> Spread | None:
    """Clients × labels; None where nodes bring them. Raises InvalidTask, InvalidData, InvalidExperiment."""
    task = task_of(experiment, folders.tasks).task
    _words(experiment, task)
    if experiment.partition.kind == "pinned":
        return None
    labels = train_labels(experiment, folders)
    parts = experiment.partition.split(labels, experiment.clients.count, experiment.seed)
    names, columns = task.classes, labels
    if not names:
        values, columns = np.unique(labels, return_inverse=True)
        names = tuple(map(str, values))
    counts = tuple(tuple(map(int, _count(columns, part, len(names)))) for part in parts)
    return Spread(labels=names, counts=counts)


def are_of(experiment: Experiment, folders: Folders, entry: Mapping[str, Any]) -> bool:
    """Whether task and data here are those of the run elsewhere whose ledger has this entry."""
    try:
        found = task_of(experiment, folders.tasks)
        with calling(f"task {experiment.task}: its data cannot be read"):
            held = found.task.load(folders.datasets)
            digest = held.test_digest if experiment.partition.kind == "pinned" else held.digest
    except InvalidInput:
        return False
    return (found.hash, digest) == (entry["task_hash"], entry["data_hash"])


def if_small(found: Spread | None) -> Spread | None:
    if found is None or len(found.labels) * len(found.counts) > TABLE_LIMIT:
        return None
    return found


def _words(experiment: Experiment, task: Task) -> str:
    with calling(f"task {experiment.task}: describe() failed"):
        said = task.describe()
    if not isinstance(said, str):
        raise InvalidTask(
            f"task {experiment.task}: describe() gave {type(said).__name__}; it must give a text"
        )
    return said


def _count(labels: Array, part: Array, size: int) -> Array:
    return np.bincount(labels[part].astype(np.int64), minlength=size)  # [labels]
