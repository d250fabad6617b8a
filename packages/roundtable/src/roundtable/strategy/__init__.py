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

from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator

from roundtable.strategy.adagrad import ServerAdagrad
from roundtable.strategy.adam import ServerAdam
from roundtable.strategy.control_variates import ControlVariates
from roundtable.strategy.means import UniformMean, WeightedMean
from roundtable.strategy.normalized import NormalizedMean
from roundtable.strategy.part import Share
from roundtable.strategy.plain import Plain
from roundtable.strategy.proximal import Proximal
from roundtable.strategy.samplers import UniformSampler
from roundtable.strategy.sgd import ServerSGD
from roundtable.strategy.yogi import ServerYogi

if TYPE_CHECKING:
    from roundtable.experiment import Training

Sampler: TypeAlias = UniformSampler
Objective: TypeAlias = Plain | Proximal | ControlVariates
Aggregation: TypeAlias = WeightedMean | UniformMean | NormalizedMean
Server: TypeAlias = ServerSGD | ServerAdam | ServerYogi | ServerAdagrad


class Strategy(BaseModel):
    """The `[strategy]` table of an experiment."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)

    sampler: Sampler = UniformSampler()
    objective: Annotated[Objective, Field(discriminator="name")] = Plain()
    aggregation: Annotated[Aggregation, Field(discriminator="name")] = WeightedMean()
    server: Annotated[Server, Field(discriminator="name")] = ServerSGD()

    @model_validator(mode="before")
    @classmethod
    def _sgd_is_understood(cls, body: Any) -> Any:
        """A server table without a name is SGD's: `[strategy.server] momentum = 0.9` is FedAvgM."""
        server = body.get("server") if isinstance(body, dict) else None
        if isinstance(server, dict) and "name" not in server:
            return {**body, "server": {"name": "sgd", **server}}
        return body

    def check(self, training: Training) -> None:
        """Raises ValueError where the parts do not fit each other or the local training."""
        self.objective.check(training)
        self.aggregation.check(training, self.objective)

    def share(self, training: Training, num_examples: int, num_steps: int, loss: float | None) -> Share:
        """What the aggregation is told of an update with this account."""
        pull = self.objective.pull * training.learning_rate
        worth = self.aggregation.worth(num_steps, training.momentum, pull)
        return Share(num_examples, num_steps, loss, worth)
