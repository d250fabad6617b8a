"""The server as SGD on the aggregated update (Reddi et al. 2021, arXiv:2003.00295, Algorithm 1).

Learning rate 1 without momentum is FedAvg; with momentum it is FedAvgM (Hsu et al. 2019, arXiv:1909.06335).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from roundtable.strategy.part import Part, Slots
from roundtable.types import Float64


class ServerSGD(Part):
    name: Literal["sgd"] = "sgd"
    learning_rate: Annotated[float, Field(gt=0)] = 1.0
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0

    @property
    def slots(self) -> tuple[str, ...]:
        """Names of the state's arrays, each as large as the trainable weights, zero at first."""
        return ("velocity",) if self.momentum else ()

    def apply(
        self,
        slots: Slots,
        weights: Float64,
        update: Float64,
        round_number: int,  # noqa: ARG002 (from 1; for optimizers that correct their bias)
    ) -> tuple[Slots, Float64]:
        """One flat block: v ← βv + Δ; w ← w + ηv."""
        if not self.momentum:
            step = update if self.learning_rate == 1 else self.learning_rate * update
            return {}, weights + step
        velocity = self.momentum * slots["velocity"] + update
        return {"velocity": velocity}, weights + self.learning_rate * velocity
