"""What data a client has: the one place where portable and pinned clients differ.

A portable client's partition is a pure function of (task, partitioner, seed, client); only its indices are
kept, never a copy of its examples. A pinned client has all of its node's own folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from roundtable.errors import InvalidData, NotAsked
from roundtable.experiment import Experiment
from roundtable.tasks import Data, Task
from roundtable.tasks.loading import blaming
from roundtable.tasks.pinned import check_classes, load_node
from roundtable.types import Array, ClientId, Digest, Int64

from worker.seeds import held_out


@dataclass(frozen=True)
class Partitions:
    """x, y: the examples that this worker's clients are made of. `indices`: a client → its rows of them."""

    x: Array
    y: Array
    x_test: Array
    y_test: Array
    indices: Mapping[ClientId, Int64]
    node: Int64 | None  # all rows of a pinned node that has not been told yet which client it is
    data_hash: Digest
    holdout: float
    seed: int

    def of(self, client: ClientId) -> tuple[Int64, Int64]:
        """A client's rows: (to train on, held out). Raises NotAsked for a client that is not here."""
        rows = self.indices.get(client, self.node)
        if rows is None:
            clients = sorted(self.indices)
            here = f"clients {clients[0]} … {clients[-1]}" if clients else "none: its DATA_DIR is not set"
            raise NotAsked(f"client {client} has no data on this worker, which has {here}")
        return held_out(rows, self.holdout, self.seed, client)


@dataclass(frozen=True)
class Loaded:
    """A task's data set, checked, with its labels [n] and content hash. `task`: the one that loaded it."""

    task: Task
    data: Data
    labels: Array
    digest: Digest


def load(task: Task, name: str, datasets_dir: Path) -> Loaded:
    """Load the task's data, which the experiment calls `name`. Raises InvalidData or InvalidTask.

    By a copy of the task: models are made by one that has loaded nothing, in each run the same.
    """
    task = copy(task)
    with blaming(f"task {name}: load() failed"):
        data = task.load(datasets_dir)
    if not isinstance(data, Data):
        raise InvalidData(
            f"task {name}: load() gave {type(data).__name__}; it must give roundtable.tasks.Data"
        )
    with blaming(f"task {name}: labels() failed"):
        labels, test_labels = task.labels(data.y_train), task.labels(data.y_test)
    if labels.shape != (len(data.y_train),):
        raise InvalidData(
            f"task {name}: labels(y) has shape {labels.shape}; it must be one integer an example"
        )
    check_classes(task, labels)
    check_classes(task, test_labels)
    return Loaded(task, data, labels, data.digest)


def spread(
    loaded: Loaded,
    experiment: Experiment,
    pinned_dir: Path | None,
    pinned_client: ClientId | None,
) -> Partitions:
    """Deal the data out. Raises InvalidData, InvalidTask or InvalidExperiment.

    In a pinned run a worker without a folder of its own has no clients, but evaluates on the task's test set.
    """
    data = loaded.data
    x, y, digest = data.x_train, data.y_train, loaded.digest
    indices: dict[ClientId, Int64]
    node: Int64 | None = None
    if experiment.partition.kind == "pinned":
        x, y, digest, indices = x[:0], y[:0], data.test_digest, {}
        if pinned_dir is not None:
            with blaming(f"task {experiment.task}: load_node() failed"):
                x, y = load_node(loaded.task, pinned_dir, data)
            node = np.arange(len(x), dtype=np.int64)
            if pinned_client is not None:
                indices, node = {pinned_client: node}, None
    else:
        dealt = experiment.partition.split(loaded.labels, experiment.clients.count, experiment.seed)
        indices = dict(enumerate(dealt))
    return Partitions(
        x, y, data.x_test, data.y_test, indices, node, digest, experiment.clients.holdout, experiment.seed
    )
