"""What the parts of a strategy have in common, and what they are told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeVar

from pydantic import BaseModel, ConfigDict

from roundtable.types import Float64


class Part(BaseModel):
    """A frozen value holding hyperparameters; its methods are pure."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


@dataclass(frozen=True)
class Share:
    """What an aggregation is told of one update."""

    num_examples: int
    num_steps: int
    loss: float | None = None
    worth: float = 1.0  # how many gradients' worth the client went (normalized mean)


@dataclass(frozen=True)
class Seen:
    """What a sampler is told of a client that took part before."""

    round: int
    loss: float | None
    seconds: float


class Arithmetic(Protocol):
    """numpy arrays and TensorFlow tensors alike."""

    def __add__(self: T, other: T) -> T: ...
    def __sub__(self: T, other: T) -> T: ...
    def __mul__(self: T, other: float) -> T: ...


T = TypeVar("T", bound=Arithmetic)

Slots = dict[str, Float64]  # a server optimizer's state for one block, by slot name
