"""The local optimizers, as arithmetic on tensors: Keras's formulas without its variables, so nothing outlives
a call.
"""

from __future__ import annotations

from typing import Any, Protocol

from roundtable.experiment import Training

Tensor = Any
Slots = list[Tensor]


class Optimizer(Protocol):
    def init(self, weight: Tensor) -> Slots:
        """The state of one array before the first step."""
        ...

    def apply(self, slots: Slots, weight: Tensor, gradient: Tensor, step: Tensor) -> tuple[Slots, Tensor]:
        """One step of one array; `step` counts from 1, float32."""
        ...


class Sgd:
    """w ← w − ηg; with momentum v ← μv − ηg, w ← w + v."""

    def __init__(self, learning_rate: float, momentum: float) -> None:
        self._rate, self._momentum = learning_rate, momentum

    def init(self, weight: Tensor) -> Slots:
        import tensorflow as tf

        return [tf.zeros_like(weight)] if self._momentum else []

    def apply(self, slots: Slots, weight: Tensor, gradient: Tensor, step: Tensor) -> tuple[Slots, Tensor]:  # noqa: ARG002
        if not self._momentum:
            return [], weight - self._rate * gradient
        velocity = self._momentum * slots[0] - self._rate * gradient
        return [velocity], weight + velocity


class Adam:
    """Kingma and Ba 2015 (arXiv:1412.6980), in the form before section 2.1's end, with Keras's ε."""

    def __init__(
        self, learning_rate: float, beta_1: float = 0.9, beta_2: float = 0.999, epsilon: float = 1e-7
    ) -> None:
        self._rate, self._beta_1, self._beta_2, self._epsilon = learning_rate, beta_1, beta_2, epsilon

    def init(self, weight: Tensor) -> Slots:
        import tensorflow as tf

        return [tf.zeros_like(weight), tf.zeros_like(weight)]

    def apply(self, slots: Slots, weight: Tensor, gradient: Tensor, step: Tensor) -> tuple[Slots, Tensor]:
        import tensorflow as tf

        mean = slots[0] + (gradient - slots[0]) * (1 - self._beta_1)
        square = slots[1] + (gradient * gradient - slots[1]) * (1 - self._beta_2)
        rate = self._rate * tf.sqrt(1 - self._beta_2**step) / (1 - self._beta_1**step)
        return [mean, square], weight - rate * mean / (tf.sqrt(square) + self._epsilon)


def optimizer_of(training: Training) -> Optimizer:
    if training.optimizer == "adam":
        return Adam(training.learning_rate)
    return Sgd(training.learning_rate, training.momentum)
