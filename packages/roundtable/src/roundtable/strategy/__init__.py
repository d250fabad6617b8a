"""A strategy is a composition of four parts, each a small frozen value with pure functions.

    sampler      (seed, round, attempt, eligible clients, history) → cohort
    objective    what a client adds to its gradients, and what it keeps and sends besides its update
    aggregation  (accounts) → coefficients, and how blocks of updates become one
    server       the server optimizer: (state, weights, aggregated update) → (state, weights)

FedAvg is the default of each. A new part is one new file here and one line in a union below. Parts work on
anything with numpy's arithmetic, so the same objective runs inside TensorFlow's graph and in a numpy test;
aggregation and server work on flat blocks, so that a fold never holds a second model in memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from roundtable.strategy.control_variates import ControlVariates
from roundtable.strategy.means import UniformMean, WeightedMean
from roundtable.strategy.plain import Plain
from roundtable.strategy.proximal import Proximal
from roundtable.strategy.samplers import UniformSampler
from roundtable.strategy.sgd import ServerSGD

if TYPE_CHECKING:
    from roundtable.experiment import Training

Sampler: TypeAlias = UniformSampler
Objective: TypeAlias = Plain | Proximal | ControlVariates
Aggregation: TypeAlias = WeightedMean | UniformMean
Server: TypeAlias = ServerSGD


class Strategy(BaseModel):
    """The `[strategy]` table of an experiment."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)

    sampler: Sampler = UniformSampler()
    objective: Annotated[Objective, Field(discriminator="name")] = Plain()
    aggregation: Annotated[Aggregation, Field(discriminator="name")] = WeightedMean()
    server: Server = ServerSGD()

    def check(self, training: Training) -> None:
        """Raises ValueError where the parts do not fit each other or the local training."""
        self.objective.check(training)
