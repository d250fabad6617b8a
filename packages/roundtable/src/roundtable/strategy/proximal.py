"""FedProx's objective: a pull of mu towards the global weights (Li et al. 2020, arXiv:1812.06127)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from roundtable.strategy.part import T
from roundtable.strategy.plain import Plain


class Proximal(Plain):
    name: Literal["proximal"] = "proximal"  # type: ignore[assignment]
    mu: Annotated[float, Field(gt=0)] = 0.01

    @property
    def pull(self) -> float:
        return self.mu

    def gradient(self, gradient: T, weights: T, start: T, broadcast: T | None, state: T | None) -> T:  # noqa: ARG002
        """∇F(w) + mu·(w − w₀)."""
        return gradient + (weights - start) * self.mu
