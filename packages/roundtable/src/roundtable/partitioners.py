"""How a data set is spread over clients: seeded, pure functions of (labels, client count, seed).

Each partitioner is the `[partition]` table of an experiment. `split` returns, for each client, the sorted
int64 indices of its training examples; label-blind partitioners look only at the number of labels.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from roundtable.types import Array, Int64


class _Partitioner(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def split(self, labels: Array, clients: int, seed: int) -> list[Int64]:
        """One sorted index array a client. Raises InvalidExperiment where the data cannot be split so."""
        raise NotImplementedError


class Iid(_Partitioner):
    """Shuffled, then dealt in sizes that differ by one at most."""

    kind: Literal["iid"] = "iid"

    def split(self, labels: Array, clients: int, seed: int) -> list[Int64]:
        order = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, 0x11D]))).permutation(
            len(labels)
        )
        return [np.sort(part).astype(np.int64) for part in np.array_split(order, clients)]


Partitioner = Annotated[Iid, Field()]
