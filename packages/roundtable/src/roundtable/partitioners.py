"""How a data set is spread over clients: seeded, pure functions of (labels, client count, seed).

Each partitioner is the `[partition]` table of an experiment, chosen by `kind`. `split` takes one label per
training example, [examples], and returns for each client the sorted int64 indices of its examples, never
none; partitioners that are blind to labels look only at their number. Tasks without classes (segmentation)
give a label too, such as an image's dominant class. The draws are numpy's PCG64: the same numpy,
the same partition.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal, TypeAlias

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from roundtable.errors import InvalidExperiment, InvalidTask
from roundtable.types import Array, Float64, Int64

TRIES: Final = 2000  # Dirichlet draws before giving up on the minimum size; 7 s for 6,000 clients

Count = Annotated[int, Field(gt=0, lt=2**31)]
Concentration = Annotated[float, Field(gt=0, le=1e6)]


class _Partitioner(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)

    def split(self, labels: Array, clients: int, seed: int) -> list[Int64]:
        """One sorted index array a client. Raises InvalidExperiment where the data cannot be split so."""
        raise NotImplementedError


class Iid(_Partitioner):
    """Shuffled, then dealt in sizes that differ by one at most."""

    kind: Literal["iid"] = "iid"

    def split(self, labels: Array, clients: int, seed: int) -> list[Int64]:
        total = _enough(labels, clients)
        return _sorted(np.array_split(_draw(seed, 0x11D).permutation(total), clients))


class Contiguous(_Partitioner):
    """The file's order, cut into sizes that differ by one at most; the seed changes nothing."""

    kind: Literal["contiguous"] = "contiguous"

    def split(self, labels: Array, clients: int, seed: int) -> list[Int64]:  # noqa: ARG002
        return _sorted(np.array_split(np.arange(_enough(labels, clients)), clients))


class Shards(_Partitioner):
    """Sorted by label, cut into equal shards, a few random ones to each client (McMahan et al. 2017, §3).

    With two shards most clients see two labels; a shard that straddles a boundary adds one.
    """

    kind: Literal["shards"] = "shards"
    shards_per_client: Count = 2

    def split(self, labels: Array, clients: int, seed: int) -> list[Int64]:
        _enough(labels, clients, "shards_per_client", self.shards_per_client)
        number = clients * self.shards_per_client
        shards = np.array_split(np.argsort(labels, kind="stable"), number)
        dealt = _draw(seed, 0x54A2D).permutation(number).reshape(clients, self.shards_per_client)
        return _sorted([np.concatenate([shards[index] for index in own]) for own in dealt])


class Dirichlet(_Partitioner):
    """Label skew: each label is shared out in proportions drawn from Dirichlet(alpha); small is skewed.

    A client that has its even share of all examples gets none of the labels after it, and a draw that leaves
    a client fewer than `min_size` examples is made again (Yurochkin et al. 2019, arXiv:1905.12022; the alpha
    of Hsu et al. 2019, arXiv:1909.06335).
    """

    kind: Literal["dirichlet"] = "dirichlet"
    alpha: Concentration = 0.5
    min_size: Count = 10

    def split(self, labels: Array, clients: int, seed: int) -> list[Int64]:
        total = _enough(labels, clients, "min_size", self.min_size)
        draw = _draw(seed, 0xD1)
        _, which, sizes = np.unique(labels, return_inverse=True, return_counts=True)
        for _ in range(TRIES):
            counts = self._counts(draw, sizes, clients, total)
            if counts is not None and counts.sum(axis=0).min() >= self.min_size:
                break
        else:
            raise InvalidExperiment(
                f"partition.min_size: found {self.min_size}, but with partition.alpha = {self.alpha} and "
                f"{clients} clients no draw of {TRIES} gave every client that many of the {total} examples: "
                f"lower partition.min_size or clients.count, or raise a small partition.alpha"
            )
        parts: list[list[Int64]] = [[] for _ in range(clients)]
        for label, row in enumerate(counts):
            shuffled = draw.permutation(np.flatnonzero(which == label))
            for part, piece in zip(parts, np.split(shuffled, np.cumsum(row)[:-1]), strict=True):
                part.append(piece)
        return _sorted([np.concatenate(part) for part in parts])

    def _counts(self, draw: np.random.Generator, sizes: Int64, clients: int, total: int) -> Int64 | None:
        """How many of each label each client gets, [labels, clients]; nothing where a draw has no use."""
        counts = np.zeros((len(sizes), clients), np.int64)
        for label, size in enumerate(sizes):
            proportions = draw.dirichlet(np.full(clients, self.alpha))
            proportions[counts.sum(axis=0) >= total / clients] = 0
            if (
                not proportions.sum() > 0
            ):  # a very small alpha gave all to clients that are full (or underflowed)
                return None
            ends = (np.cumsum(proportions / proportions.sum())[:-1] * size).astype(np.int64)
            counts[label] = np.diff(ends, prepend=0, append=size)
        return counts


class QuantitySkew(_Partitioner):
    """IID in labels, unequal in size.

    Each client first gets `min_size`; the rest is shared in drawn proportions:
    exp(sigma·z) with z standard normal ("log-normal"), or Dirichlet(alpha).
    """

    kind: Literal["quantity"] = "quantity"
    distribution: Literal["log-normal", "dirichlet"] = "log-normal"
    sigma: Annotated[float, Field(ge=0, le=10)] | None = None  # log-normal only; 1 where left out
    alpha: Concentration | None = None  # dirichlet only; 1 where left out
    min_size: Count = 10

    @model_validator(mode="after")
    def _fits(self) -> QuantitySkew:
        if self.distribution == "log-normal" and self.alpha is not None:
            raise ValueError(
                f"alpha: found {self.alpha}, but log-normal sizes have a sigma: "
                'set partition.sigma, or partition.distribution = "dirichlet"'
            )
        if self.distribution == "dirichlet" and self.sigma is not None:
            raise ValueError(
                f"sigma: found {self.sigma}, but Dirichlet sizes have an alpha: "
                'set partition.alpha, or partition.distribution = "log-normal"'
            )
        return self

    def split(self, labels: Array, clients: int, seed: int) -> list[Int64]:
        total = _enough(labels, clients, "min_size", self.min_size)
        draw = _draw(seed, 0x9517E)
        sizes = self.min_size + _apportion(total - clients * self.min_size, self._shares(draw, clients))
        return _sorted(np.split(draw.permutation(total), np.cumsum(sizes)[:-1]))

    def _shares(self, draw: np.random.Generator, clients: int) -> Float64:
        if self.distribution == "dirichlet":
            return draw.dirichlet(np.full(clients, 1.0 if self.alpha is None else self.alpha))
        shares = np.exp((1.0 if self.sigma is None else self.sigma) * draw.standard_normal(clients))
        return np.asarray(shares / shares.sum(), np.float64)


class FixedSize(_Partitioner):
    """`size` random examples a client, drawn without replacement, whatever the number of clients.

    The clients' draws are disjoint, and adding clients changes nobody's. With `overlap` each client draws
    from the whole set on its own, so that two may hold the same example: the only way where the data do not
    suffice.
    """

    kind: Literal["fixed"] = "fixed"
    size: Count
    overlap: bool = False

    def split(self, labels: Array, clients: int, seed: int) -> list[Int64]:
        total = _enough(labels, 1)
        if self.size > total:
            raise InvalidExperiment(
                f"partition.size: found {self.size}; allowed: at most {total}, all examples"
            )
        if self.overlap:
            return _sorted(
                [_draw(seed, 0x840, client).permutation(total)[: self.size] for client in range(clients)]
            )
        if clients * self.size > total:
            raise InvalidExperiment(
                f"partition.size: found {self.size} for {clients} clients, {clients * self.size} of {total} "
                f"examples; allowed: at most {total // clients}, or partition.overlap = true"
            )
        return _sorted(
            list(_draw(seed, 0x840).permutation(total)[: clients * self.size].reshape(clients, self.size))
        )


class Pinned(_Partitioner):
    """No split: each node brings its own folder and is one client; clients.count is the number of nodes."""

    kind: Literal["pinned"] = "pinned"

    def split(self, labels: Array, clients: int, seed: int) -> list[Int64]:  # noqa: ARG002
        raise InvalidExperiment(
            "partition.kind: found pinned, whose data lie on the nodes: there is nothing to split here"
        )


Partitioner: TypeAlias = Annotated[
    Iid | Contiguous | Shards | Dirichlet | QuantitySkew | FixedSize | Pinned, Field(discriminator="kind")
]


def _draw(seed: int, *purpose: int) -> np.random.Generator:
    """A generator of its own for each purpose, so that no two kinds share their draws."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, *purpose])))


def _sorted(parts: list[Int64]) -> list[Int64]:
    return [np.sort(part).astype(np.int64) for part in parts]


def _enough(labels: Array, clients: int, field: str = "", each: int = 1) -> int:
    """The number of examples, where it suffices for `each` a client, which is what `field` asks for."""
    if labels.ndim != 1:
        raise InvalidTask(
            f"the task's labels have shape {labels.shape}: one label for each example is needed"
        )
    total = len(labels)
    if clients > total:
        raise InvalidExperiment(
            f"clients.count: found {clients}; allowed: at most {total}, what {total} examples suffice for"
        )
    if clients * each > total:
        fewer = f", or clients.count at most {total // each}" if each <= total else ""
        raise InvalidExperiment(
            f"partition.{field}: found {each} for {clients} clients, {clients * each} of {total} examples; "
            f"allowed: at most {total // clients}{fewer}"
        )
    return total


def _apportion(total: int, shares: Float64) -> Int64:
    """Whole numbers that sum to `total`, nearest to the shares (largest remainders, ties to the first)."""
    exact = shares * total
    whole = np.floor(exact).astype(np.int64)
    missing = total - int(whole.sum())
    whole[np.argsort(whole - exact, kind="stable")[:missing]] += 1
    return whole
