"""FedYogi: the server as Yogi on the aggregated update (Reddi et al. 2021, arXiv:2003.00295, Algorithm 2).

Where Adam forgets large updates at the rate β₂ whatever comes after them, Yogi's v falls by the new update's
square at most, so that steps do not grow at once after a quiet round (Zaheer et al. 2018).
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from roundtable.strategy.adaptive import Adaptive, Decay
from roundtable.types import Float64


class ServerYogi(Adaptive):
    name: Literal["yogi"] = "yogi"
    beta_2: Decay = 0.99

    def second(self, square: Float64, squared: Float64) -> Float64:
        """v ← v − (1 − β₂)·Δ²·sign(v − Δ²)."""
        return square - (1 - self.beta_2) * squared * np.sign(square - squared)
