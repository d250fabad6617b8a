"""How good weights are on given examples: sums over batches of a fixed size, which add up over shards and
clients.

One traced function for a batch; its sums are added in float64, in order, so that the same examples give the
same bits whoever computes them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from roundtable.errors import InvalidTask, NotFinite
from roundtable.messages import Evaluated, one_line
from roundtable.metrics import CONFUSION, ratio_names
from roundtable.tasks import Task
from roundtable.tasks.loading import blaming
from roundtable.types import Array, Float32

from worker.model import Model, Tensor, Tensors

BATCH = 256  # examples
VALUES = 2**22  # of a batch's input: large pictures go a few at a time, or their layers would fill the memory


class Measure:
    """A task's loss and metrics as sums over a batch, for use in a graph."""

    def __init__(self, task: Task, name: str) -> None:
        self._task, self._name = task, name
        with blaming(f"task {name}: loss() failed"):
            self._loss = task.loss()

    def loss(self, y: Tensor, predictions: Tensor) -> Tensor:
        """The mean over the batch's examples."""
        import tensorflow as tf

        return tf.reduce_mean(self._loss(y, predictions))

    def sums(self, y: Tensor, predictions: Tensor, loss: Tensor) -> dict[str, Tensor]:
        """float64 sums by name, "loss" first, then the task's metrics by name."""
        import tensorflow as tf

        metrics = self._task.metrics(y, predictions)
        if not isinstance(metrics, Mapping) or "loss" in metrics:
            raise InvalidTask(
                f'task {self._name}: metrics() must give a dict of sums without "loss", found {metrics}'
            )
        count = tf.cast(tf.shape(y)[0], tf.float64)
        sums = {"loss": tf.cast(loss, tf.float64) * count}
        values: list[str] = []
        for name in sorted(metrics):
            total = tf.cast(metrics[name], tf.float64)
            if total.shape.rank not in (0, 1):
                raise InvalidTask(
                    f"task {self._name}: metric {name} has shape {total.shape}; sum it over the batch's "
                    "examples, to a number or a flat list of numbers"
                )
            sums[name] = total
            if name != one_line(name):
                raise InvalidTask(f"task {self._name}: metric {name!r}: give it a name of one short line")
            if total.shape.rank == 0:
                values.append(name)
            elif name != CONFUSION:
                values += ratio_names(name, total.shape[0] or 0)
        if twice := {value for value, times in Counter(values).items() if times > 1}:
            raise InvalidTask(
                f"task {self._name}: metrics() gives {', '.join(sorted(twice))} twice, once out of a list: "
                "give one of them another name"
            )
        return sums


class Evaluation:
    """`names`: of the sums; `numbers`: of those which are one number and not a list."""

    def __init__(self, model: Model, measure: Measure, name: str, x: Array, y: Array) -> None:
        """x, y: any examples of the task, for their shapes and dtypes. Raises InvalidTask where its parts do
        not fit.
        """
        import tensorflow as tf

        self._model, self._measure = model, measure
        with blaming(f"task {name}: model, loss and metrics do not fit its data"):
            self._call = tf.function(
                self._graph,
                input_signature=[
                    [tf.TensorSpec(spec.shape, tf.float32) for spec in model.manifest.arrays],
                    tf.TensorSpec([None, *x.shape[1:]], x.dtype),
                    tf.TensorSpec([None, *y.shape[1:]], y.dtype),
                ],
                autograph=False,
            ).get_concrete_function()
        shapes: dict[str, Any] = self._call.structured_outputs
        self.names = tuple(shapes)
        self.numbers = tuple(name for name, sums in shapes.items() if sums.shape.rank == 0)

    def run(self, weights: Sequence[Float32], x: Array, y: Array) -> Evaluated:
        """x [n, …], y [n, …] → sums over the n examples, without `seconds`. Raises NotFinite."""
        import tensorflow as tf

        totals: dict[str, Any] = dict.fromkeys(self.names, 0.0)
        tensors = [tf.convert_to_tensor(weight) for weight in weights]
        batch = batch_of(x)
        for at in range(0, len(x), batch):
            # In the signature's own structure: TensorFlow takes a flat one only after an error whose text
            # has all the weights in it.
            sums = self._call(
                tensors, tf.convert_to_tensor(x[at : at + batch]), tf.convert_to_tensor(y[at : at + batch])
            )
            totals = {name: totals[name] + sums[name].numpy() for name in self.names}
        for name, total in totals.items():
            if not np.isfinite(total).all():
                raise NotFinite(f"evaluation: {name} is {total}: {self._why(name, totals, x, y)}")
        return Evaluated(
            num_examples=len(x),
            sums={
                name: total.tolist() if isinstance(total, np.ndarray) else float(total)
                for name, total in totals.items()
            },
        )

    def _why(self, name: str, totals: Mapping[str, Any], x: Array, y: Array) -> str:
        if np.isfinite(totals["loss"]).all():
            return (
                f"the loss is finite; let metrics() give {name} as [numerator, denominator] if it is a ratio"
            )
        return why_not_finite(x, y)

    def _graph(self, weights: Tensors, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        import tensorflow as tf

        states = self._model.states(tf.zeros([self._model.generators, 2], tf.int64))
        predictions = self._model.predict(*self._model.split(weights), states, x, training=False)[0]
        return self._measure.sums(y, predictions, self._measure.loss(y, predictions))


def why_not_finite(x: Array, y: Array) -> str:
    """A likely cause that the loss over x [n, …], y [n, …] is not finite, and its remedy."""
    for name, array in (("x", x), ("y", y)):
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            gaps = np.count_nonzero(~np.isfinite(array.reshape(len(array), -1)).all(axis=1))
            return (
                f"{name} of {gaps} of these {len(array)} examples is not finite: "
                "leave them out in load(), or let model() and loss() allow for them"
            )
    return "training diverged; lower training.learning_rate"


def batch_of(x: Array) -> int:
    """How many examples of x [n, …] are evaluated at a time."""
    return max(1, min(BATCH, VALUES // max(int(np.prod(x.shape[1:])), 1)))
