"""What a task is. Built-in tasks and the user's own derive from `Task` and write three methods.

docs/tasks.md tells how to write one, with a complete example.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from blake3 import blake3

from roundtable.errors import InvalidData, InvalidTask
from roundtable.tasks.npz import read_npz
from roundtable.types import Array, Digest


@dataclass(frozen=True)
class Data:
    """A data set in storage dtypes (uint8 stays uint8 until it is cast in the graph).

    x_train [n, …], y_train [n, …], x_test [m, …], y_test [m, …], in whichever byte order; held in this
    machine's. Raises InvalidData where these do not fit each other.
    """

    x_train: Array
    y_train: Array
    x_test: Array
    y_test: Array

    def __post_init__(self) -> None:
        for part in ("train", "test"):
            check_pair(getattr(self, f"x_{part}"), getattr(self, f"y_{part}"), f"_{part}")
        for name in ("x_train", "y_train", "x_test", "y_test"):
            object.__setattr__(self, name, native(getattr(self, name)))
        check_alike(self.x_train, self.x_test, "x_train", "x_test")
        check_alike(self.y_train, self.y_test, "y_train", "y_test")

    @property
    def digest(self) -> Digest:
        """Content hash of all four arrays."""
        return array_hash(x_train=self.x_train, y_train=self.y_train, x_test=self.x_test, y_test=self.y_test)

    @property
    def test_digest(self) -> Digest:
        """Content hash of the test set: what nodes with data of their own have in common."""
        return array_hash(x_test=self.x_test, y_test=self.y_test)


class Task(ABC):
    """A data set, a model, a loss and metrics.

    Options are keyword arguments of the constructor; an experiment gives them as `task_options`. Import
    TensorFlow and Keras inside methods.
    """

    classes: ClassVar[tuple[str, ...]] = ()  # names of the labels 0, 1, …; empty where labels are not fixed

    @abstractmethod
    def model(self) -> Any:
        """A new, built Keras model whose input is x in its storage dtype: cast and scale inside the model."""

    @abstractmethod
    def loss(self) -> Any:
        """A Keras loss, or any function (y, predictions) → the mean over the examples, or one value each."""

    @abstractmethod
    def load(self, data_dir: Path) -> Data:
        """The data set, the same on every node. Raises InvalidData where it cannot be had."""

    def describe(self) -> str:
        """The data set in a few words, for results and reports; empty where the task's name says it all.

        Data that nobody measured are called synthetic here.
        """
        return ""

    def pictures(self, x: Array, y: Array, predictions: Array) -> Mapping[str, Array]:  # noqa: ARG002
        """What a report shows of a few test examples [n, …] and a model's outputs for them, side by side.

        By name, in order: colours as uint8 [n, h, w, 3], or classes, numbered as in `classes`, as integers
        [n, h, w]. Nothing where there is nothing to see. Numpy only.
        """
        return {}

    def metrics(self, y: Any, predictions: Any) -> Mapping[str, Any]:  # noqa: ARG002 (for those that measure)
        """Sums over a batch's examples, as TensorFlow tensors: numbers, or flat lists of numbers.

        They add up over batches, shards and clients; `roundtable.metrics` turns the sums into values. "loss"
        is there without being asked for.
        """
        return {}

    def labels(self, y: Array) -> Array:
        """One integer for each example, for partitioners: [n]. y itself, where that is what it is."""
        if y.ndim == 1 and np.issubdtype(y.dtype, np.integer):
            return y
        raise InvalidTask(
            f"{type(self).__name__}.labels(y): y has dtype {y.dtype} and shape {y.shape}, which is not one "
            "integer an example; write labels(), with np.zeros(len(y), int) where no label fits"
        )

    def train_labels(self, data_dir: Path) -> Array:
        """labels(y_train) without loading more than that, where a task can: [n]."""
        data = self.load(data_dir)
        if not isinstance(data, Data):
            raise InvalidData(
                f"{type(self).__name__}.load() gave {type(data).__name__}; it must give roundtable.tasks.Data"
            )
        labels = self.labels(data.y_train)
        if isinstance(labels, np.ndarray) and labels.shape != (len(data.y_train),):
            raise InvalidData(
                f"{type(self).__name__}.labels(y) has shape {labels.shape}; it must be one integer an example"
            )
        return labels

    def load_node(self, folder: Path) -> tuple[Array, Array]:
        """A node's own examples (x [n, …], y [n, …]), from `data.npz` in `folder` unless a task reads another
        layout.
        """
        arrays = read_npz(folder / "data.npz", ("x", "y"), "see docs/tasks.md, pinned data")
        return arrays["x"], arrays["y"]


def check_pair(x: Array, y: Array, suffix: str = "") -> None:
    """Raises InvalidData unless x and y hold the same number of examples, at least one."""
    for name, array in (("x", x), ("y", y)):
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf" or array.ndim == 0:
            found = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
            raise InvalidData(
                f"{name}{suffix} is {found}; it must be an array of numbers, one row an example"
            )
    if len(x) != len(y) or len(x) == 0:
        raise InvalidData(
            f"x{suffix} has {len(x)} examples and y{suffix} {len(y)}; they must be equal and not 0"
        )


def native(array: Array) -> Array:
    """The same numbers in this machine's byte order: FITS and IDX files hold them big-endian."""
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def check_alike(a: Array, b: Array, a_name: str, b_name: str) -> None:
    """Raises InvalidData unless examples of a and b have the same shape and dtype."""
    if a.shape[1:] != b.shape[1:] or a.dtype != b.dtype:
        raise InvalidData(
            f"an example of {a_name} is {a.dtype} {a.shape[1:]}, of {b_name} {b.dtype} {b.shape[1:]}; "
            "they must be alike"
        )


def array_hash(**arrays: Array) -> Digest:
    """BLAKE3 over each array's name, dtype and shape (one line each, in the given order), then its
    little-endian data.
    """
    digest = blake3()
    for name, array in arrays.items():
        digest.update(f"{name} {array.dtype.name} {'x'.join(map(str, array.shape))}\n".encode())
    for array in arrays.values():
        little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        digest.update(little.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
