"""The experiment file: what to run, complete and strict.

One TOML file describes one run, and the same experiment with the same seed gives the same bits. Every field
has a default but `name` and `task`; an unknown or contradictory one is refused with its path, what was found
and what is allowed. docs/experiments.md explains each field to its users.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal

from blake3 import blake3
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from roundtable.errors import InvalidExperiment
from roundtable.faults import faults
from roundtable.machines import Machines
from roundtable.partitioners import Iid, Partitioner
from roundtable.strategy import Strategy
from roundtable.toml import Tables, parse_tables, read_tables
from roundtable.types import Digest, Seconds

Fraction = Annotated[float, Field(gt=0, le=1)]
Period = Annotated[int, Field(gt=0, le=1_000_000)]  # in rounds or evaluations


_NAME = "1 to 60 small letters, digits and hyphens, a letter or digit first"
_TASK = 'a built-in task such as "mnist", or "my_task:MyTask" for class MyTask in tasks/my_task.py'
_UPDATES = '"none", "all" or "last:n" with n rounds'


def asked_of(cohort: int, oversample: float) -> int:
    """How many clients are asked for so many updates: with over-sampling some more."""
    return _ceil(cohort * (1 + oversample))


def needed_of(cohort: int, quorum: float) -> int:
    """How many of a cohort's updates close a round."""
    return max(_ceil(cohort * quorum), 1)


def _ceil(number: float) -> int:
    """Of products such as 0.55 · 100, which floating point puts a hair above 55."""
    return math.ceil(number - 1e-9)


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


class Clients(Section):
    """K clients, of which a fraction C, at least one, is sampled each round."""

    count: Annotated[int, Field(gt=0, le=100_000)] = 10
    fraction: Fraction = 1.0
    holdout: Annotated[float, Field(ge=0, le=0.5)] = 0.0  # of each client's examples, kept from training


class Threads(Section):
    """TensorFlow's thread counts; more than one can change a CNN's bits."""

    intra: Annotated[int, Field(gt=0, le=1024)] = 1
    inter: Annotated[int, Field(gt=0, le=1024)] = 1


class Training(Section):
    """What a client does with the global weights. `batch_size = "full"` and one epoch make FedSGD's step."""

    epochs: Annotated[int, Field(gt=0, le=10_000)] = 1  # each client's shuffles of a round are drawn at once
    batch_size: Annotated[int, Field(gt=0, lt=2**31)] | Literal["full"] = 32  # TensorFlow's int32
    optimizer: Literal["sgd", "adam"] = "sgd"
    learning_rate: Annotated[float, Field(gt=0)] = 0.1
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0  # sgd only
    threads: Threads = Threads()

    @model_validator(mode="after")
    def _fits(self) -> Training:
        if self.optimizer == "adam" and self.momentum:
            raise ValueError(f"momentum: found {self.momentum}, which belongs to sgd; allowed with adam: 0")
        return self


class Rounds(Section):
    """How many, and when one is closed. A round that misses its quorum is tried again with a new sample."""

    count: Annotated[int, Field(gt=0, le=1_000_000)] = 20
    deadline: Annotated[Seconds, Field(gt=0)] | None = None  # after the round's first order
    quorum: Fraction = 1.0  # of the cohort
    oversample: Annotated[float, Field(ge=0, le=4)] = (
        0.0  # ask this share more clients; close when the cohort's size is in
    )
    retries: Annotated[int, Field(ge=0, le=100)] = 2
    wait_for_workers: Annotated[Seconds, Field(gt=0)] = 600.0  # then a run without eligible clients fails

    @model_validator(mode="after")
    def _fits(self) -> Rounds:
        if self.quorum < 1 and self.deadline is None:
            raise ValueError(
                f"quorum: found {self.quorum}, but no deadline after which it applies; "
                "allowed: 1, or set rounds.deadline"
            )
        return self


class Evaluation(Section):
    """Centralized on the task's test set, in fixed shards; federated on the clients' held-out examples."""

    every: Period = 1  # rounds; the last round is always evaluated
    shards: Annotated[int, Field(gt=0, le=1000)] = 5
    federated: bool = False
    personalized: bool = False  # each client, on its held-out examples before and after its local training


class Stop(Section):
    """End early: at a test accuracy, or when it has not improved for `patience` evaluations."""

    accuracy: Fraction | None = None
    patience: Period | None = None


class Keep(Section):
    """What stays on disk after a round. `updates`: "none", "last:n" or "all"."""

    checkpoint_every: Annotated[int, Field(ge=0, le=1_000_000)] = 0  # besides the latest and the best
    updates: Annotated[str, Field(pattern=r"^(none|all|last:[1-9][0-9]{0,5})$", description=_UPDATES)] = (
        "none"
    )
    durability: Literal["process", "power"] = "process"


class Experiment(Section):
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,59}$", description=_NAME)]
    description: Annotated[str, Field(max_length=2000)] = ""
    task: Annotated[str, Field(pattern=r"^[A-Za-z_][\w.-]{0,99}(:[A-Za-z_]\w{0,99})?$", description=_TASK)]
    task_options: dict[str, str | int | float | bool] = {}
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 1
    wire: Literal["float32", "float16"] = "float32"
    clients: Clients = Clients()
    partition: Partitioner = Iid()
    training: Training = Training()
    strategy: Strategy = Strategy()
    rounds: Rounds = Rounds()
    evaluation: Evaluation = Evaluation()
    stop: Stop = Stop()
    keep: Keep = Keep()
    machines: Machines = Machines()

    @model_validator(mode="after")
    def _fits(self) -> Experiment:
        for name, value in self.task_options.items():
            if isinstance(value, int) and not -(2**63) <= value < 2**63:
                raise ValueError(
                    f"task_options.{name}: found a whole number of {value.bit_length()} bits; "
                    "allowed: one that fits 64, with its sign"
                )
        for name in ("federated", "personalized"):
            if getattr(self.evaluation, name) and self.clients.holdout == 0:
                raise ValueError(
                    f"evaluation.{name}: found true, but clients keep no examples to evaluate on; "
                    "allowed: false, or set clients.holdout above 0"
                )
        if self.rounds.oversample and self.cohort_size == self.clients.count:
            raise ValueError(
                f"rounds.oversample: found {self.rounds.oversample}, but clients.fraction = "
                f"{self.clients.fraction} asks every client already; allowed: 0, or a smaller fraction"
            )
        self.strategy.check(self.training)
        self.machines.check(
            self.clients.count, self.quorum, self.rounds.deadline, self.partition.kind == "pinned"
        )
        return self

    @property
    def cohort_size(self) -> int:
        """max(round(C·K), 1), as in McMahan et al. 2017."""
        return max(round(self.clients.fraction * self.clients.count), 1)

    @property
    def asked(self) -> int:
        """How many clients are asked in a round: the cohort and, with over-sampling, some more."""
        return asked_of(self.cohort_size, self.rounds.oversample)

    @property
    def quorum(self) -> int:
        """Without so many updates no round is closed."""
        return needed_of(self.cohort_size, self.rounds.quorum)

    @property
    def digest(self) -> Digest:
        """Identifies what is run: everything but the name and the description."""
        body = self.model_dump(mode="json", exclude={"name", "description"})
        return blake3(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def parse(body: dict[str, Any], source: str = "experiment") -> Experiment:
    """Raises InvalidExperiment with one line a fault: path, what was found, what is allowed."""
    try:
        return Experiment.model_validate(body)
    except ValidationError as error:
        raise InvalidExperiment(
            "\n".join(f"{source}: {line}" for line in faults(error, Experiment))
        ) from None


def load(path: Path) -> Experiment:
    """Read and check an experiment file. Raises InvalidExperiment."""
    return _of(read_tables(path, "see experiments/ for examples"), str(path))


def loads(text: str, source: str = "experiment") -> Experiment:
    """Check the text of an experiment file. Raises InvalidExperiment."""
    return _of(parse_tables(text, source), source)


def _of(body: Tables, source: str) -> Experiment:
    if "task" not in body and body.keys() & {"experiment", "factors", "parts"}:
        raise InvalidExperiment(f"{source}: is a study, not an experiment: `lab study run` takes it")
    return parse(body, source)
