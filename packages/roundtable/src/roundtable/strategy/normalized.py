"""FedNova: updates normalized by how far their clients went (Wang et al. 2020, arXiv:2007.07481).

Clients that take more local steps pull the mean towards their own optimum: FedAvg then solves another problem
than the one it was given. FedNova (eq. 6 and Algorithm 1) averages dᵢ = (x − yᵢ)/(η·‖aᵢ‖₁) by pᵢ = nᵢ/n and
goes τ_eff = Σ pᵢ·‖aᵢ‖₁ along it, FedAvg's own length of step:

    x ← x + Σ pᵢ·(τ_eff/‖aᵢ‖₁)·uᵢ        with uᵢ = yᵢ − x

‖aᵢ‖₁ is the sum of the weights that the local optimizer gives to its gradients (`worth` below). With as many
steps for each client this is FedAvg.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from roundtable.errors import RunFailed
from roundtable.strategy.means import WeightedMean
from roundtable.strategy.part import Share
from roundtable.types import Float64

if TYPE_CHECKING:
    from roundtable.experiment import Training
    from roundtable.strategy.plain import Plain


class NormalizedMean(WeightedMean):
    """Σ pₖ·(τ_eff/‖aₖ‖₁)·uₖ."""

    name: Literal["normalized-mean"] = "normalized-mean"  # type: ignore[assignment]

    def check(self, training: Training, objective: Plain) -> None:
        if training.optimizer != "sgd":
            raise ValueError(
                f'strategy.aggregation.name: found "normalized-mean" with training.optimizer = '
                f'"{training.optimizer}", whose steps are no fixed sum of gradients; '
                'allowed with it: training.optimizer = "sgd"'
            )
        # A stronger pull jumps over the global weights. With momentum ρ it swings past them sooner, and some
        # numbers of steps are worth less than nothing from η·mu = 23·(1 − ρ) on.
        allowed = min(1.0, 10 * (1 - training.momentum)) / training.learning_rate
        if objective.pull >= allowed:
            raise ValueError(
                f"strategy.objective.mu: found {objective.pull:g} with training.learning_rate = "
                f"{training.learning_rate:g} and training.momentum = {training.momentum:g}: local steps jump "
                f"over the global weights; allowed with aggregation normalized-mean: mu below {allowed:g}"
            )

    def worth(self, num_steps: int, momentum: float, pull: float) -> float:
        """‖a‖₁: after so many SGD steps on one constant gradient g, the client is η·‖a‖₁·g away.

        A step is v ← ρ·v + 1 − pull·d, d ← d + v, from 0; a power of its matrix takes all of them at once.
        For plain SGD it is `num_steps`; the paper's section 4 has closed forms:
        [τ − ρ(1 − ρ^τ)/(1 − ρ)]/(1 − ρ) with momentum ρ alone, and [1 − (1 − α)^τ]/α with pull α alone.
        """
        if not momentum and not pull:
            return float(num_steps)
        step = np.array(
            [[1 - pull, momentum, 1], [-pull, momentum, 1], [0, 0, 1]], np.float64
        )  # of (d, v, 1)
        return float(np.linalg.matrix_power(step, num_steps)[0, 2])

    def coefficients(self, shares: Sequence[Share]) -> Float64:
        part = self.averaging(shares)
        length = np.array([share.worth for share in shares], np.float64)
        if not length.min() > 0:
            raise RunFailed(
                "an update says that no local step was taken: a normalized mean needs one at least"
            )
        return np.asarray(part * (part @ length) / length, np.float64)
