"""What the adaptive server optimizers have in common (Reddi et al. 2021, arXiv:2003.00295, Algorithm 2).

    mₜ = β₁·mₜ₋₁ + (1 − β₁)·Δₜ
    vₜ = one line of each optimizer's own, from vₜ₋₁ and Δₜ²
    xₜ₊₁ = xₜ + η·mₜ / (√vₜ + τ)

Δ is the aggregated update, m₀ = 0, and v starts at τ², the least that the algorithm allows. There is no bias
correction, in the paper as here.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import numpy as np
from pydantic import Field

from roundtable.strategy.part import Part, Slots
from roundtable.types import Float64

Rate: TypeAlias = Annotated[float, Field(gt=0)]
Decay: TypeAlias = Annotated[float, Field(ge=0, lt=1)]


class Adaptive(Part):
    learning_rate: Rate = 0.01
    beta_1: Decay = 0.9
    tau: Rate = 1e-3  # the degree of adaptivity: larger is nearer to SGD with momentum

    @property
    def slots(self) -> tuple[str, ...]:
        """Names of the state's arrays, each as large as the trainable weights, zero at first."""
        return ("mean", "square") if self.beta_1 else ("square",)

    def second(self, square: Float64, squared: Float64) -> Float64:
        """vₜ from vₜ₋₁ and Δₜ², one flat block."""
        raise NotImplementedError

    def apply(
        self, slots: Slots, weights: Float64, update: Float64, round_number: int
    ) -> tuple[Slots, Float64]:
        """One flat block; `round_number` counts from 1, when the slots are zeros still."""
        before = slots["square"] if round_number > 1 else np.full_like(slots["square"], self.tau**2)
        square = self.second(before, update * update)
        mean, kept = update, {"square": square}
        if self.beta_1:
            mean = self.beta_1 * slots["mean"] + (1 - self.beta_1) * update
            kept["mean"] = mean
        return kept, weights + self.learning_rate * mean / (np.sqrt(square) + self.tau)
