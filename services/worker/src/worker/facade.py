"""What the work thread asks of a trainer: worker.trainer.Trainer's shape, without importing TensorFlow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from roundtable.messages import Evaluated, Initialized, Plan
from roundtable.types import ClientId, Digest, Metrics, Seconds
from roundtable.weights import Manifest, Weights


class Trained(Protocol):
    """What came of training one client; each group shaped as messages say."""

    @property
    def update(self) -> Weights: ...
    @property
    def broadcast(self) -> Weights | None: ...  # the change of it
    @property
    def state(self) -> Weights | None: ...
    @property
    def num_examples(self) -> int: ...
    @property
    def num_steps(self) -> int: ...
    @property
    def loss(self) -> float | None: ...
    @property
    def metrics(self) -> Metrics: ...
    @property
    def seconds(self) -> Seconds: ...
    @property
    def cpu_seconds(self) -> Seconds: ...


class Trainer(Protocol):
    """What this module asks of worker.trainer.Trainer."""

    @property
    def task_hash(self) -> Digest: ...
    @property
    def data_hash(self) -> Digest: ...

    def initialize(self) -> tuple[Weights, Initialized]: ...

    def use(self, manifest: Manifest) -> None: ...

    def train(
        self,
        client: ClientId,
        round_number: int,
        weights: Weights,
        broadcast: Weights | None,
        state: Weights | None,
        stop: Callable[[], bool],
    ) -> Trained: ...

    def evaluate(self, weights: Weights, shard: int | None, client: ClientId | None) -> Evaluated: ...


MakeTrainer = Callable[[Plan], Trainer]
