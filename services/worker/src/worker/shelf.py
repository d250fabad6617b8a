"""What a run leaves for the next one of the same task: data in memory, the model, traced functions.

All of it is a function of the task and of settings that are part of its key, never of a seed: a run that
finds it here computes the same bits as one that makes it anew, and starts seconds sooner. A changed task or
data folder is another key.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Generic, TypeAlias, TypeVar

from roundtable.experiment import Experiment
from roundtable.tasks import Found

from worker import partitions
from worker.evaluation import Evaluation, Measure
from worker.model import Model, Tensor
from worker.partitions import Loaded
from worker.runtime import resident
from worker.training import LocalTraining

TASKS_KEPT: Final = 2  # with their data
TRACES_KEPT: Final = 8  # of one task

T = TypeVar("T")
Key: TypeAlias = tuple[object, ...]


class Recent(Generic[T]):
    """The last few things that were made, by key."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._things: OrderedDict[Key, T] = OrderedDict()

    def get(self, key: Key, make: Callable[[], T]) -> T:
        if key not in self._things:
            while len(self._things) >= self._limit:
                self._things.popitem(last=False)  # first, so that there is room for the new one's data
            self._things[key] = make()
        self._things.move_to_end(key)
        return self._things[key]


@dataclass(frozen=True)
class Structure:
    """A task's model as a graph builder, and its traced evaluation."""

    model: Model
    measure: Measure
    evaluation: Evaluation

    @classmethod
    def of(cls, found: Found, experiment: Experiment, loaded: Loaded) -> Structure:
        model = Model(found.task, experiment.task)  # by no run's seed
        measure = Measure(loaded.task, experiment.task)
        data = loaded.data
        return cls(model, measure, Evaluation(model, measure, experiment.task, data.x_test, data.y_test))


@dataclass(frozen=True)
class Kit:
    """One task's. `x`, `y`: the training set as tensors; `loaded` has views of the same memory."""

    loaded: Loaded
    x: Tensor
    y: Tensor
    structure: Structure
    trainings: Recent[LocalTraining] = field(default_factory=lambda: Recent(TRACES_KEPT))


class Shelf:
    """Not for two threads at once."""

    def __init__(self) -> None:
        self._kits: Recent[Kit] = Recent(TASKS_KEPT)

    def kit(self, found: Found, experiment: Experiment, datasets_dir: Path) -> Kit:
        """Raises InvalidTask, InvalidData."""

        def make() -> Kit:
            loaded = partitions.load(found.task, experiment.task, datasets_dir)
            x, x_view = resident(loaded.data.x_train)
            y, y_view = resident(loaded.data.y_train)
            loaded = replace(loaded, data=replace(loaded.data, x_train=x_view, y_train=y_view))
            return Kit(loaded, x, y, Structure.of(found, experiment, loaded))

        return self._kits.get((found.hash, _contents(datasets_dir)), make)


def _contents(folder: Path) -> Key:
    """Names, sizes and times of the files in it: whether any has been changed."""
    found = []
    for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
        with suppress(OSError):  # a link to nowhere, or gone meanwhile: who needs it will say so
            about = path.stat()
            found.append((str(path), about.st_size, about.st_mtime_ns))
    return tuple(found)
