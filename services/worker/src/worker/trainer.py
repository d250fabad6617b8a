"""What a run asks of TensorFlow, for the rest of the worker: first weights, training a client, evaluating
weights.

One trainer a run: it holds the task's data, one Keras model and the traced functions, which the shelf keeps
for the next run of the same task. Not for two threads at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import zip_longest
from pathlib import Path

import numpy as np
from roundtable.codec import as_decoded
from roundtable.errors import InvalidData, InvalidTask, NotFinite
from roundtable.messages import Evaluated, Initialized, Plan
from roundtable.tasks import find
from roundtable.tasks.loading import blaming
from roundtable.types import ClientId, Digest, Float32, Metrics, Seconds
from roundtable.weights import Manifest, Weights

from worker import partitions
from worker.evaluation import why_not_finite
from worker.model import Model, Tensors
from worker.runtime import accelerator, configure_threads, resident
from worker.seeds import generator_states, shuffles
from worker.shelf import Recent, Shelf, Structure
from worker.training import Local, LocalTraining

__all__ = ["Trained", "Trainer", "accelerator", "configure_threads"]


@dataclass(frozen=True)
class Trained:
    """One client's local training. `update` is local − global; `broadcast` the change of it, and `state` the
    client's new one, where the objective has them. `loss` and `metrics` are means over the last local epoch's
    examples.
    """

    update: Weights
    broadcast: Weights | None
    state: Weights | None
    num_examples: int
    num_steps: int
    loss: float
    metrics: Metrics
    seconds: Seconds
    cpu_seconds: Seconds  # of the process, while it trained


class Trainer:
    def __init__(
        self,
        plan: Plan,
        tasks_dir: Path,
        datasets_dir: Path,
        pinned_dir: Path | None,
        node: str,
        shelf: Shelf | None = None,
    ) -> None:
        """Loads the task and its data, and builds the model, or finds them on the `shelf`. Raises
        InvalidTask, InvalidData, InvalidSetting (threads) or InvalidExperiment (data that cannot be split
        so).
        """
        self._experiment = experiment = plan.experiment
        found = find(experiment.task, experiment.task_options, tasks_dir)
        self._task, self.task_hash = found.task, found.hash
        configure_threads(experiment.training.threads.intra, experiment.training.threads.inter)
        if experiment.partition.kind == "pinned":  # its data is a node's own, and no other run's
            loaded = partitions.load(found.task, experiment.task, datasets_dir)
            client = plan.pinned_clients.get(node)
            data = partitions.spread(loaded, experiment, pinned_dir, client)
            self._x, x = resident(data.x)
            self._y, y = resident(data.y)
            self._data = replace(data, x=x, y=y)
            structure = Structure.of(found, experiment, loaded)
            self._trainings: Recent[LocalTraining] = Recent(1)
        else:
            kit = (shelf or Shelf()).kit(found, experiment, datasets_dir)
            self._data = partitions.spread(kit.loaded, experiment, None, None)
            self._x, self._y, self._trainings, structure = kit.x, kit.y, kit.trainings, kit.structure
        self.data_hash: Digest = self._data.data_hash
        self._model, self._measure, self._evaluation = (
            structure.model,
            structure.measure,
            structure.evaluation,
        )
        self._manifest = self._model.manifest
        self._global: tuple[Weights, Tensors] | None = None  # the latest that clients are trained from

    def initialize(self) -> tuple[Weights, Initialized]:
        """The run's first weights, seeded by the experiment, and what they are."""
        first = Model(self._task, self._experiment.task, self._experiment.seed)
        return first.initial(), Initialized(
            arrays=self._manifest.arrays,
            task_hash=self.task_hash,
            data_hash=self.data_hash,
            train_examples=len(self._data.x),
            test_examples=len(self._data.x_test),
            metrics=self._evaluation.names,
        )

    def use(self, manifest: Manifest) -> None:
        """Take the run's manifest. Raises InvalidTask where the model built here is another."""
        here, there = self._manifest.arrays, manifest.arrays
        if here != there:
            ours, theirs = next(pair for pair in zip_longest(here, there) if pair[0] != pair[1])
            raise InvalidTask(
                f"task {self._experiment.task}: the model built here is not the run's: {ours} here, "
                f"{theirs} there; give all workers the same versions of Keras and TensorFlow"
            )

    def train(
        self,
        client: ClientId,
        round_number: int,
        weights: Weights,
        broadcast: Weights | None,
        state: Weights | None,
        stop: Callable[[], bool],
    ) -> Trained:
        """Train a client from the round's global weights. Raises NotAsked, InvalidData (no examples),
        NotFinite.

        Once `stop` says so the training ends early, and its result is of no use.
        """
        training, seed = self._experiment.training, self._experiment.seed
        if self._experiment.machines.profiles:  # else a slow machine would be held to have traced slowly
            states = generator_states(self._model.generators, seed, round_number, client)
            self._training.warm_up(self._tensors(weights), states, *self._controls(broadcast, state))
        began, cpu_began = time.perf_counter(), time.process_time()
        tensors = self._tensors(weights)
        rows, _ = self._data.of(client)
        if not len(rows):
            raise InvalidData(
                f"client {client} has no examples to train on: set a partition that gives it some"
            )
        order = rows.astype(np.int32)[shuffles(len(rows), training.epochs, seed, round_number, client)]
        controls = self._controls(broadcast, state)
        with blaming(f"task {self._experiment.task}: training failed"):
            local = self._training.run(
                tensors,
                order,
                generator_states(self._model.generators, seed, round_number, client),
                *controls,
                stop,
            )
        update = Weights.of(
            weights.manifest, [end - start for end, start in zip(local.ends, weights.arrays, strict=True)]
        )
        if not all(np.isfinite(array).all() for array in update.arrays):
            raise NotFinite(
                f"client {client}, round {round_number}: the update is not finite (loss {local.loss}): "
                + why_not_finite(self._data.x[rows], self._data.y[rows])
            )
        change, after = self._finish(weights, local, *controls)
        return Trained(
            update=update,
            broadcast=change,
            state=after,
            num_examples=len(rows),
            num_steps=local.num_steps,
            loss=local.loss,
            metrics=local.metrics,
            seconds=time.perf_counter() - began,
            cpu_seconds=time.process_time() - cpu_began,
        )

    def evaluate(self, weights: Weights, shard: int | None, client: ClientId | None) -> Evaluated:
        """Sums over a shard of the test set, or over a client's held-out examples, or over the whole test
        set.
        """
        began = time.perf_counter()
        x, y = self._data.x_test, self._data.y_test
        if client is not None:
            _, rows = self._data.of(client)
            x, y = self._data.x[rows], self._data.y[rows]
        elif shard is not None:
            shards = self._experiment.evaluation.shards
            part = slice(shard * len(x) // shards, (shard + 1) * len(x) // shards)
            x, y = x[part], y[part]
        evaluated = self._evaluation.run(weights.arrays, x, y)
        return evaluated.model_copy(update={"seconds": time.perf_counter() - began})

    # --- the parts

    @cached_property
    def _training(self) -> LocalTraining:
        training, objective = self._experiment.training, self._experiment.strategy.objective

        def trace() -> LocalTraining:
            metrics = [name for name in self._evaluation.numbers if name != "loss"]
            return LocalTraining(self._model, self._measure, metrics, training, objective, self._x, self._y)

        # Whatever the graph takes as a constant; epochs are an argument of it.
        constants = (training.batch_size, training.optimizer, training.learning_rate, training.momentum)
        return self._trainings.get((*constants, objective.model_dump_json()), trace)

    def _tensors(self, weights: Weights) -> Tensors:
        """A round's weights in TensorFlow's memory, once for all clients that are trained from them."""
        import tensorflow as tf

        if self._global is None or self._global[0] is not weights:
            self._global = None  # first: a model may be large
            self._global = weights, [tf.convert_to_tensor(array) for array in weights.arrays]
        return self._global[1]

    def _controls(
        self, broadcast: Weights | None, state: Weights | None
    ) -> tuple[list[Float32], list[Float32]]:
        """The objective's broadcast and client state, zero where there is none yet; empty for objectives
        without.
        """
        if not self._experiment.strategy.objective.controls:
            return [], []
        zeros = Weights.zeros(self._manifest.trainable)
        return list((broadcast or zeros).arrays), list((state or zeros).arrays)

    def _finish(
        self, weights: Weights, local: Local, broadcast: list[Float32], state: list[Float32]
    ) -> tuple[Weights | None, Weights | None]:
        """(change of the client's state, the new one), of what the aggregator will understand of it: else the
        sum of all changes, the broadcast, would drift away from the states.
        """
        objective = self._experiment.strategy.objective
        if not objective.controls:
            return None, None
        starts, ends = self._model.split(weights.arrays)[0], self._model.split(local.ends)[0]
        steps, rate = max(local.num_steps, 1), self._experiment.training.learning_rate
        finished = [
            np.asarray(objective.finish(start, end, steps, rate, sent, kept), np.float32)
            for start, end, sent, kept in zip(starts, ends, broadcast, state, strict=True)
        ]
        trainable = self._manifest.trainable
        after = as_decoded(Weights.of(trainable, finished), self._experiment.wire)
        changes = [new - kept for new, kept in zip(after.arrays, state, strict=True)]
        return Weights.of(trainable, changes), after
