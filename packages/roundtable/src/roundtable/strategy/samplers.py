"""Who takes part in a round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from roundtable.strategy.part import Part, Seen
from roundtable.types import ClientId


class UniformSampler(Part):
    """Uniform, without replacement; a function of (seed, round, attempt) and the eligible clients alone."""

    name: Literal["uniform"] = "uniform"

    def sample(
        self,
        seed: int,
        round_number: int,
        attempt: int,
        eligible: Sequence[ClientId],
        size: int,
        history: Mapping[ClientId, Seen],  # noqa: ARG002 (for samplers that choose)
    ) -> tuple[ClientId, ...]:
        """At most `size` of `eligible`, in ascending order."""
        draw = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, round_number, attempt])))
        ordered = sorted(eligible)
        chosen = draw.permutation(len(ordered))[: min(size, len(ordered))]
        return tuple(sorted(ordered[index] for index in chosen))
