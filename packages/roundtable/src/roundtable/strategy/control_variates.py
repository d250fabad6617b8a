"""SCAFFOLD's objective: control variates against client drift (Karimireddy et al. 2020, arXiv:1910.06378).

The broadcast is the server's control variate c, a client's state its own cᵢ; both start at zero. c is the
mean of all cᵢ but for rounding: of c itself to float32 and, with `wire = "float16"`, of each change on its
way, by up to 1 part in 2048. That adds up from round to round and stays when gradients, and with them all cᵢ,
become small.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from roundtable.strategy.part import T
from roundtable.strategy.plain import Plain
from roundtable.types import Float32, Float64

if TYPE_CHECKING:
    from roundtable.experiment import Training


class ControlVariates(Plain):
    name: Literal["control-variates"] = "control-variates"  # type: ignore[assignment]

    @property
    def controls(self) -> bool:
        return True

    def check(self, training: Training) -> None:
        if training.optimizer != "sgd" or training.momentum:
            raise ValueError(
                'strategy.objective.name: found "control-variates", which is defined for plain SGD steps; '
                'allowed with it: training.optimizer = "sgd" and training.momentum = 0'
            )

    def gradient(self, gradient: T, weights: T, start: T, broadcast: T | None, state: T | None) -> T:  # noqa: ARG002
        """∇F(y) − cᵢ + c (Algorithm 1, line 9)."""
        assert broadcast is not None and state is not None
        return gradient + (broadcast - state)

    def finish(
        self,
        start: Float32,
        end: Float32,
        num_steps: int,
        learning_rate: float,
        broadcast: Float32,
        state: Float32,
    ) -> Float32:
        """Option II (line 12): cᵢ⁺ = cᵢ − c + (x − y)/(K·η)."""
        after: Float32 = state - broadcast + (start - end) / np.float32(num_steps * learning_rate)
        return after

    def advance(self, broadcast: Float64, mean_change: Float64, cohort: int, clients: int) -> Float64:
        """c ← c + |S|/N · mean(Δcᵢ) (line 17)."""
        return broadcast + mean_change * (cohort / clients)
