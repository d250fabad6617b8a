"""FedAdagrad: the server as Adagrad on the mean update (Reddi et al. 2021, arXiv:2003.00295, Algorithm 2).

The paper's experiments have it without momentum, hence β₁ = 0 unless it is set.
"""

from __future__ import annotations

from typing import Literal

from roundtable.strategy.adaptive import Adaptive, Decay, Rate
from roundtable.types import Float64


class ServerAdagrad(Adaptive):
    name: Literal["adagrad"] = "adagrad"
    learning_rate: Rate = 0.1
    beta_1: Decay = 0.0

    def second(self, square: Float64, squared: Float64) -> Float64:
        """v ← v + Δ²."""
        return square + squared
