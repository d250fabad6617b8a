"""The plain objective: the client's own loss, nothing added (McMahan et al. 2017, arXiv:1602.05629)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from roundtable.strategy.part import Part, T
from roundtable.types import Float32, Float64

if TYPE_CHECKING:
    from roundtable.experiment import Training


class Plain(Part):
    name: Literal["plain"] = "plain"

    @property
    def controls(self) -> bool:
        """Whether clients keep a state and get a broadcast, each shaped as the trainable weights."""
        return False

    @property
    def pull(self) -> float:
        """How strongly each step is pulled back towards the round's global weights: a proximal term's mu."""
        return 0.0

    def check(self, training: Training) -> None:
        """Raises ValueError where this objective does not fit the local training."""

    def gradient(self, gradient: T, weights: T, start: T, broadcast: T | None, state: T | None) -> T:  # noqa: ARG002
        """One local step's direction, for one trainable array; `start` are the round's global weights."""
        return gradient

    def finish(
        self,
        start: Float32,
        end: Float32,
        num_steps: int,
        learning_rate: float,
        broadcast: Float32,
        state: Float32,
    ) -> Float32:
        """The client's state after its last local step, for one trainable array."""
        raise NotImplementedError(f"{self.name} keeps no state")

    def advance(self, broadcast: Float64, mean_change: Float64, cohort: int, clients: int) -> Float64:
        """On the aggregator, by blocks: the next broadcast from the uniform mean of the states' changes."""
        raise NotImplementedError(f"{self.name} has no broadcast")
