"""Means of updates: by examples, as FedAvg has it (McMahan et al. 2017), or one client one vote."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from roundtable.strategy.part import Part, Share
from roundtable.types import Float32, Float64


class WeightedMean(Part):
    """Σ (nₖ/n)·uₖ."""

    name: Literal["weighted-mean"] = "weighted-mean"

    def coefficients(self, shares: Sequence[Share]) -> Float64:
        """One coefficient an update, in client order: [updates]."""
        examples = np.array([share.num_examples for share in shares], np.float64)
        return np.asarray(examples / examples.sum(), np.float64)

    def combine(self, blocks: Sequence[Float32], coefficients: Float64) -> Float64:
        """One flat block of every update, in client order → the same block of the result: [block]."""
        total = np.zeros(blocks[0].shape, np.float64)
        for block, coefficient in zip(blocks, coefficients, strict=True):
            total += block * np.float64(coefficient)
        return total


class UniformMean(WeightedMean):
    """(1/K)·Σ uₖ."""

    name: Literal["uniform-mean"] = "uniform-mean"  # type: ignore[assignment]

    def coefficients(self, shares: Sequence[Share]) -> Float64:
        return np.full(len(shares), 1 / len(shares), np.float64)
