"""The local training of a client as one graph call: all its epochs, shuffled, with the last short batch.

Nothing outlives a call: weights, optimizer state and random generators are arguments and loop variables, so
the same arguments give the same bits, whatever was trained before and in whatever process. One trace serves
every client size. The examples of an epoch are gathered once, before its batches are sliced.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from roundtable.experiment import Training
from roundtable.strategy import Objective
from roundtable.types import Float32, Int64

from worker.evaluation import Measure
from worker.model import Model, Tensor, Tensors
from worker.optimizers import optimizer_of

STOP_SECONDS = 0.2  # how often a training that takes longer is asked whether it is still wanted


@dataclass(frozen=True)
class Local:
    """What came of it: all weights in the manifest's order; loss and metrics are means over the last epoch's
    examples.
    """

    ends: list[Float32]
    num_steps: int
    loss: float
    metrics: dict[str, float]


class LocalTraining:
    """A traced function over one data set, which stays where it is: a client is an array of row numbers."""

    def __init__(
        self,
        model: Model,
        measure: Measure,
        metrics: Sequence[str],
        training: Training,
        objective: Objective,
        x: Tensor,
        y: Tensor,
    ) -> None:
        """x [n, …], y [n, …]: the data set, on the CPU. `metrics`: which of the task's to report."""
        import tensorflow as tf

        self._model, self._measure, self._metrics = model, measure, ("loss", *metrics)
        self._training, self._objective = training, objective
        self._optimizer = optimizer_of(training)
        self._watcher = ThreadPoolExecutor(1, "watch-training")
        self._settled = threading.Lock()
        self._stop: Callable[[], bool] | None = None  # of the client that is being trained
        self._watched = False
        self.traces = 0
        self._x, self._y = x, y
        with tf.device("CPU"):
            self._stopped = tf.Variable(False, trainable=False)
        weights = [tf.TensorSpec(spec.shape, tf.float32) for spec in model.manifest.arrays]
        controls = [
            tf.TensorSpec(spec.shape, tf.float32)
            for spec in (model.manifest.trainable.arrays if objective.controls else ())
        ]
        self._call = tf.function(
            self._graph,
            input_signature=[
                weights,
                tf.TensorSpec([None, *x.shape[1:]], x.dtype),
                tf.TensorSpec([None, *y.shape[1:]], y.dtype),
                tf.TensorSpec([None, None], tf.int32),
                tf.TensorSpec([model.generators, 2], tf.int64),
                controls,
                controls,
            ],
            autograph=False,
        )
        # A trace for each learning rate, say, is wanted: nothing to warn of.
        self._call._omit_frequent_tracing_warning = True

    def run(
        self,
        weights: Tensors,
        order: npt.NDArray[np.int32],
        generator_states: Int64,
        broadcast: list[Float32],
        state: list[Float32],
        stop: Callable[[], bool],
    ) -> Local:
        """Train from `weights` over rows `order` [epochs, n] of the data. `broadcast` and `state` as the
        objective has them, empty where it has none. When `stop` says so it ends early, with a result that is
        of no use to anyone.
        """
        with self._watching(stop):
            ends, steps, sums = self._call(
                weights, self._x, self._y, order, generator_states, broadcast, state
            )
        examples = order.shape[1]
        means = {name: float(total) / examples for name, total in zip(self._metrics, sums, strict=True)}
        return Local([end.numpy() for end in ends], int(steps), means.pop("loss"), means)

    def warm_up(
        self, weights: Tensors, generator_states: Int64, broadcast: list[Float32], state: list[Float32]
    ) -> None:
        """Trace and optimize the graph now, by an example of no consequence, and not while a client's
        training is timed.
        """
        if not self.traces:
            one = np.zeros((1, 1), np.int32)
            self.run(weights, one, generator_states, broadcast, state, lambda: False)

    @contextmanager
    def _watching(self, stop: Callable[[], bool]) -> Iterator[None]:
        """While the graph runs, this thread cannot ask; another does, and the loop reads what it found.

        It goes on from one client to the next: to wake it for each is a tenth of a small one's training.
        """
        self._stopped.assign(stop())
        with self._settled:
            self._stop = stop
            begins, self._watched = not self._watched, True
        if begins:
            self._watcher.submit(self._watch)
        try:
            yield
        finally:
            with self._settled:  # or what is found too late would stop the next client's training
                self._stop = None

    def _watch(self) -> None:
        """Until nothing is being trained."""
        time_passes = threading.Event()
        while self._watched:
            time_passes.wait(STOP_SECONDS)
            with self._settled:
                if self._stop is None:
                    self._watched = False
                elif self._stop():
                    self._stopped.assign(True)

    # --- in the graph

    def _graph(
        self,
        weights: Tensors,
        x: Tensor,
        y: Tensor,
        order: Tensor,
        seeds: Tensor,
        broadcast: Tensors,
        state: Tensors,
    ) -> tuple[Tensors, Tensor, Tensors]:
        import tensorflow as tf

        self.traces += 1
        start, others = self._model.split(weights)
        examples = tf.shape(order)[1]
        size = examples if self._training.batch_size == "full" else tf.constant(self._training.batch_size)
        no_controls: Tensors = [None] * len(start)
        broadcast, state = broadcast or no_controls, state or no_controls

        def step(x_epoch: Tensor, y_epoch: Tensor, at: Tensor, carry: Any, sums: Tensors) -> Any:
            trained, others, slots, states, count = carry
            upto = tf.minimum(at + size, examples)
            x_batch, y_batch = x_epoch[at:upto], y_epoch[at:upto]  # [b, …]
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(trained)
                predictions, others, states, extra = self._model.predict(
                    trained, others, states, x_batch, True
                )
                loss = self._measure.loss(y_batch, predictions)
                objective = tf.add_n([loss, *extra]) if extra else loss
            gradients = tape.gradient(objective, trained, unconnected_gradients="zero")
            gradients = [tf.convert_to_tensor(gradient) for gradient in gradients]  # an Embedding's is sparse
            count += 1
            stepped = [
                self._optimizer.apply(
                    slot,
                    weight,
                    self._objective.gradient(gradient, weight, first, sent, kept),
                    tf.cast(count, tf.float32),
                )
                for slot, weight, gradient, first, sent, kept in zip(
                    slots, trained, gradients, start, broadcast, state, strict=True
                )
            ]
            more = self._measure.sums(y_batch, predictions, loss)
            sums = [total + more[name] for total, name in zip(sums, self._metrics, strict=True)]
            trained = self._model.constrained([weight for _, weight in stepped])
            return upto, (trained, others, [s for s, _ in stepped], states, count), sums

        def epoch(number: Tensor, carry: Any, sums: Tensors) -> Any:
            with tf.device("CPU"):  # an accelerator is given an epoch at a time, never the data set
                rows = order[number]
                x_epoch, y_epoch = tf.gather(x, rows), tf.gather(y, rows)  # [n, …]
            _, carry, sums = tf.while_loop(
                lambda at, *_: tf.logical_and(at < examples, tf.logical_not(self._stopped)),
                lambda at, carry, sums: step(x_epoch, y_epoch, at, carry, sums),
                (tf.constant(0), carry, [tf.zeros_like(total) for total in sums]),
                parallel_iterations=1,
            )
            return number + 1, carry, sums

        carry = (
            start,
            others,
            [self._optimizer.init(w) for w in start],
            self._model.states(seeds),
            tf.constant(0),
        )
        zeros = [tf.constant(0.0, tf.float64) for _ in self._metrics]
        _, (trained, others, _, _, count), sums = tf.while_loop(
            lambda number, *_: tf.logical_and(number < tf.shape(order)[0], tf.logical_not(self._stopped)),
            epoch,
            (tf.constant(0), carry, zeros),
            parallel_iterations=1,
        )
        return self._model.join(trained, others), count, sums
