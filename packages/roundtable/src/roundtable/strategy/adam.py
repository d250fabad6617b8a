"""FedAdam: the server as Adam on the aggregated update (Reddi et al. 2021, arXiv:2003.00295, Algorithm 2)."""

from __future__ import annotations

from typing import Literal

from roundtable.strategy.adaptive import Adaptive, Decay
from roundtable.types import Float64


class ServerAdam(Adaptive):
    name: Literal["adam"] = "adam"
    beta_2: Decay = 0.99

    def second(self, square: Float64, squared: Float64) -> Float64:
        """v ← β₂·v + (1 − β₂)·Δ²."""
        return self.beta_2 * square + (1 - self.beta_2) * squared
