"""What an experiment's data looks like from here: labels only, read through its task, without TensorFlow."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
from roundtable.errors import InvalidInput, InvalidTask
from roundtable.experiment import Experiment
from roundtable.tasks import Found, Task, find
from roundtable.types import Array

from lab.native import Folders
from lab.results import Spread

TABLE_LIMIT = 20_000  # cells of a spread that result.json carries


def task_of(experiment: Experiment, tasks: Path) -> Found:
    """Raises InvalidTask."""
    return find(experiment.task, experiment.task_options, tasks)


def draws(experiment: Experiment, tasks: Path) -> bool:
    """Whether a report shows pictures of this task's predictions, and what draws them is here."""
    try:
        task = task_of(experiment, tasks).task
    except InvalidTask:
        return False
    return type(task).pictures is not Task.pictures and find_spec("tensorflow") is not None


def described(experiment: Experiment, tasks: Path) -> str:
    """The data set in the task's words; nothing where it has none, or the task is not on this machine."""
    try:
        return task_of(experiment, tasks).task.describe()
    except InvalidTask:
        return ""


def spread(experiment: Experiment, folders: Folders) -> Spread | None:
    """Clients × labels; None where nodes bring them. Raises InvalidTask, InvalidData, InvalidExperiment."""
    task = task_of(experiment, folders.tasks).task
    if experiment.partition.kind == "pinned":
        return None
    labels = task.train_labels(folders.datasets)
    parts = experiment.partition.split(labels, experiment.clients.count, experiment.seed)
    size = max(int(labels.max()) + 1, len(task.classes))
    names = task.classes or tuple(str(label) for label in range(size))
    if len(names) != size:
        raise InvalidTask(
            f"task {experiment.task} names {len(names)} classes, but its data has label {size - 1}"
        )
    counts = tuple(tuple(map(int, _count(labels, part, size))) for part in parts)
    return Spread(labels=names, counts=counts)


def spread_if_here(experiment: Experiment, folders: Folders) -> Spread | None:
    """The same, or None where this machine lacks the task or the data: the lab elsewhere has them."""
    try:
        return spread(experiment, folders)
    except InvalidInput:
        return None


def if_small(found: Spread | None) -> Spread | None:
    if found is None or len(found.labels) * len(found.counts) > TABLE_LIMIT:
        return None
    return found


def _count(labels: Array, part: Array, size: int) -> Array:
    return np.bincount(labels[part].astype(np.int64), minlength=size)  # [labels]
