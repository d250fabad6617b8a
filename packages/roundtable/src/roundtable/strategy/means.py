"""Means of updates: by examples, as FedAvg has it (McMahan et al. 2017), or one client one vote."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from roundtable.errors import RunFailed
from roundtable.strategy.part import Part, Share
from roundtable.types import Array, Float64

if TYPE_CHECKING:
    from roundtable.experiment import Training
    from roundtable.strategy.plain import Plain


class WeightedMean(Part):
    """Σ (nₖ/n)·uₖ."""

    name: Literal["weighted-mean"] = "weighted-mean"

    def check(self, training: Training, objective: Plain) -> None:
        """Raises ValueError where this aggregation does not fit the local training."""

    def worth(self, num_steps: int, momentum: float, pull: float) -> float:  # noqa: ARG002 (FedNova's)
        """How many gradients' worth a client went, where that counts; `momentum` is that of its SGD, `pull`
        η·mu of a proximal objective.
        """
        return 1.0

    def coefficients(self, shares: Sequence[Share]) -> Float64:
        """One coefficient an update, in client order: [updates]. Raises RunFailed where none can be had."""
        return self.averaging(shares)

    def averaging(self, shares: Sequence[Share]) -> Float64:
        """The same for weights that are not trained (batch statistics): these sum to 1."""
        examples = np.array([share.num_examples for share in shares], np.float64)
        if not examples.sum():
            raise RunFailed(f"none of {len(shares)} updates counts an example: a weighted mean needs some")
        return np.asarray(examples / examples.sum(), np.float64)

    def scratch_rows(self, updates: int) -> int:  # noqa: ARG002 (a median needs a row for each)
        """How many rows of float64 scratch `combine` needs for this many updates."""
        return 1

    def combine(
        self,
        blocks: Sequence[Array],
        coefficients: Float64,
        out: Float64 | None = None,
        scratch: Float64 | None = None,
    ) -> Float64:
        """One flat block of every update, in client order → the same block of the result: [block].

        A fold lends `out`, [block], which is filled and returned, and `scratch`, [scratch_rows, block], whose
        contents mean nothing, so that nothing is allocated a block.
        """
        total = np.empty(blocks[0].shape, np.float64) if out is None else out
        term = np.empty(blocks[0].shape, np.float64) if scratch is None else scratch[0]
        np.copyto(total, blocks[0])
        total *= coefficients[0]
        for block, coefficient in zip(blocks[1:], coefficients[1:], strict=True):
            np.copyto(term, block)  # a cast by itself is faster than a ufunc that casts as it goes
            term *= coefficient
            total += term
        return total


class UniformMean(WeightedMean):
    """(1/K)·Σ uₖ."""

    name: Literal["uniform-mean"] = "uniform-mean"  # type: ignore[assignment]

    def averaging(self, shares: Sequence[Share]) -> Float64:
        return np.full(len(shares), 1 / len(shares), np.float64)
