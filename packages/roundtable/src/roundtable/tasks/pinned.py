"""A node's own folder: examples that stay on it. A worker counts them when it joins, and trains on them when
asked.

`data.npz` with x [n, …] and y [n, …], alike the examples of the task; where the task reads another layout, y
alone, to be counted.
Counting needs neither TensorFlow nor the task: a worker joins before it knows of any. Masks, in `data.npz` or
in a folder of tiles, are counted by what they show most of, as task clouds has it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from roundtable.errors import InvalidData
from roundtable.messages import PinnedData
from roundtable.tasks.clouds.tiles import read_masks, tile_labels
from roundtable.tasks.npz import read_npz
from roundtable.tasks.task import Data, Task, check_alike, check_pair, native
from roundtable.types import Array

REMEDY = "see docs/tasks.md, pinned data"


def count_labels(folder: Path) -> PinnedData:
    """What a worker tells of its folder at join. Raises InvalidData."""
    if not folder.is_dir():
        raise InvalidData(f"{folder}: there is no such folder of pinned data; {REMEDY}")
    labels = _labels(folder)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer) or len(labels) == 0:
        raise InvalidData(
            f"{folder}: y is {labels.dtype} {labels.shape}; one integer an example is needed, at least one; "
            f"{REMEDY}"
        )
    values, counts = np.unique(labels, return_counts=True)
    return PinnedData(
        examples=len(labels),
        labels={str(value): int(count) for value, count in zip(values, counts, strict=True)},
    )


def _labels(folder: Path) -> Array:
    if (folder / "masks").is_dir():
        return tile_labels(read_masks(folder))
    y = read_npz(folder / "data.npz", ("y",), REMEDY)["y"]
    return tile_labels(y) if y.ndim == 3 and y.size else y


def load_node(task: Task, folder: Path, data: Data) -> tuple[Array, Array]:
    """A node's own examples (x, y), checked against the task's test set and classes. Raises InvalidData."""
    if not folder.is_dir():
        raise InvalidData(f"{folder}: there is no such folder of pinned data; {REMEDY}")
    x, y = task.load_node(folder)
    try:
        check_pair(x, y)
        x, y = native(x), native(y)
        check_alike(x, data.x_test, "x", "x_test")
        check_alike(y, data.y_test, "y", "y_test")
        check_classes(task, task.labels(y))
    except InvalidData as error:
        raise InvalidData(f"{folder}: {error}; {REMEDY}") from None
    return x, y


def check_classes(task: Task, labels: Array) -> None:
    """Raises InvalidData unless there is one integer an example [n], each one of the task's classes."""
    if not isinstance(labels, np.ndarray) or labels.ndim != 1 or labels.dtype.kind not in "biu":
        found = f"{labels.dtype} {labels.shape}" if isinstance(labels, np.ndarray) else type(labels).__name__
        raise InvalidData(f"labels are {found}; they must be an array of one integer an example")
    if task.classes and len(labels):
        for extreme in (int(labels.min()), int(labels.max())):
            if not 0 <= extreme < len(task.classes):
                raise InvalidData(
                    f"label {extreme} is unknown to the task, whose labels are 0 … {len(task.classes) - 1}"
                )
