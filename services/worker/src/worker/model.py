"""A task's Keras model, as the rest of the worker sees it: a manifest and pure functions of its weights.

One Keras model a run, for its structure and its first weights only; its own variables are never trained.
Weights are `model.weights` in Keras's order, which leaves out the state of random generators: that is seeded
for each use.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from roundtable.errors import InvalidTask
from roundtable.tasks import Task
from roundtable.tasks.loading import build
from roundtable.weights import ArraySpec, Manifest, Weights

Tensor: TypeAlias = Any  # tf.Tensor, which has no types of its own
Tensors: TypeAlias = list[Any]


class Model:
    """`generators` is the number of random generators in it."""

    def __init__(self, task: Task, name: str, seed: int = 0) -> None:
        """`seed`: of `initial`. Raises InvalidTask where the task's model cannot be built or used."""
        import keras

        self._keras = build(task, name, seed)
        if not isinstance(self._keras, keras.Model) or not self._keras.built:
            raise InvalidTask(f"task {name}: model() must give a built Keras model: give it a keras.Input")
        self._name = name
        trained = {id(variable) for variable in self._keras.trainable_variables}
        self._weights: list[Any] = list(self._keras.weights)
        self._trained = [id(variable) in trained for variable in self._weights]
        place = {id(variable): position for position, variable in enumerate(self._weights)}
        self._trainable_places = [place[id(variable)] for variable in self._keras.trainable_variables]
        # What Keras calls non-trainable is batch statistics, which are weights, and generators' states.
        self._fixed_places = [place.get(id(variable)) for variable in self._keras.non_trainable_variables]
        generators = [
            variable for variable in self._keras.non_trainable_variables if id(variable) not in place
        ]
        self._generator_dtypes = [variable.dtype for variable in generators]
        self.generators = len(generators)
        for variable in generators:
            if tuple(variable.shape) != (2,):
                raise InvalidTask(
                    f"task {name}: model() holds {variable.path}, neither a weight nor a random generator's "
                    "state: keep metrics and losses out of the model"
                )
        for variable in self._weights:
            if variable.dtype != "float32":
                raise InvalidTask(
                    f"task {name}: weight {variable.path} is {variable.dtype}; every weight must be float32"
                )
        for layer in self._keras._flatten_layers():
            if layer.compute_dtype == "float16":
                raise InvalidTask(
                    f"task {name}: layer {layer.name} computes in float16, whose small gradients vanish "
                    "without the scaling of losses, which is not done here: give it dtype float32 or "
                    "mixed_bfloat16"
                )
        if not any(self._trained):
            raise InvalidTask(f"task {name}: its model has nothing to train")

    @property
    def manifest(self) -> Manifest:
        return Manifest(
            tuple(
                ArraySpec(variable.name, tuple(variable.shape), "float32", trained)
                for variable, trained in zip(self._weights, self._trained, strict=True)
            )
        )

    def initial(self) -> Weights:
        """The first weights: a function of the task and the seed."""
        return Weights.of(self.manifest, [np.array(variable.numpy()) for variable in self._weights])

    def split(self, weights: Sequence[Tensor]) -> tuple[Tensors, Tensors]:
        """All weights, in the manifest's order → (trainable, others), each in the manifest's order."""
        pairs = list(zip(weights, self._trained, strict=True))
        return [weight for weight, trained in pairs if trained], [
            weight for weight, trained in pairs if not trained
        ]

    def join(self, trainable: Sequence[Tensor], others: Sequence[Tensor]) -> Tensors:
        """The inverse of `split`."""
        sources = {True: iter(trainable), False: iter(others)}
        return [next(sources[trained]) for trained in self._trained]

    def constrained(self, trainable: Sequence[Tensor]) -> Tensors:
        """In a graph: weights after a step → as their constraints have them."""
        constraints = [variable.constraint for variable in self.split(self._weights)[0]]
        return [
            constraint(weight) if constraint else weight
            for constraint, weight in zip(constraints, trainable, strict=True)
        ]

    def predict(
        self,
        trainable: Sequence[Tensor],
        others: Sequence[Tensor],
        states: Sequence[Tensor],
        x: Tensor,
        training: bool,
    ) -> tuple[Tensor, Tensors, Tensors, Tensors]:
        """In a graph: x [b, …] → (predictions, others after it, generator states after it, regularization
        losses). Raises InvalidTask where a layer assigns what is trained.
        """
        import keras

        weights = self.join(trainable, others)
        waiting = iter(states)
        fixed = [next(waiting) if place is None else weights[place] for place in self._fixed_places]
        trained = [weights[place] for place in self._trainable_places]
        trained_here, fixed_here = self._keras.trainable_variables, self._keras.non_trainable_variables
        # As Keras's stateless_call, which loses what is assigned to a trained variable without a word, and
        # which leaves out __call__: inner layers learn there that this is training, and keep their losses.
        mapping = zip([*trained_here, *fixed_here], [*trained, *fixed], strict=True)
        with keras.StatelessScope(mapping, collect_losses=True) as scope:
            given = [scope.get_current_value(variable) for variable in trained_here]
            predictions = self._keras(x, training=training)
            losses = list(self._keras.losses)
        for variable, value in zip(trained_here, given, strict=True):
            if scope.get_current_value(variable) is not value:
                raise InvalidTask(
                    f"task {self._name}: a layer assigns {variable.path} while it is called, which is the "
                    "optimizer's to change: leave out layers that do, as SpectralNormalization does"
                )
        next_states = []
        for place, variable in zip(self._fixed_places, fixed_here, strict=True):
            value = scope.get_current_value(variable)
            if place is None:
                next_states.append(value)
            else:
                weights[place] = value
        return predictions, self.split(weights)[1], next_states, losses

    def states(self, seeds: Tensor) -> Tensors:
        """In a graph: int64 [generators, 2] → one state for each of the model's random generators."""
        import tensorflow as tf

        return [tf.cast(seeds[index], dtype) for index, dtype in enumerate(self._generator_dtypes)]
