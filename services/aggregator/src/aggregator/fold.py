"""A round's updates become the next weights: block by block, in client order, from files into files.

Nothing but a few blocks is ever held in memory: updates, weights and server slots are memory-mapped, results are
written behind the block that is being worked on, and hashed there. What comes out is a function of the files' contents
and of the order of `inputs` alone, not of the block size for means. All arithmetic is float64.

- trainable arrays: aggregation.combine, then server.apply with its slots;
- other floating arrays (batch statistics): aggregation.combine, then added, without the server optimizer;
- integer arrays (counters): the mean of the updates, rounded half to even, then added;
- `broadcast`: the uniform mean of the clients' changes, through objective.advance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aggregator.files import RunFiles, Wire
from roundtable.strategy import Strategy
from roundtable.strategy.part import Share
from roundtable.types import ClientId, Digest
from roundtable.weights import Manifest

BLOCK = 32_768  # elements: float64 scratch of a block stays in the second-level cache


@dataclass(frozen=True)
class Input:
    """One participant's update."""

    client: ClientId
    path: Path
    share: Share
    state_digest: Digest | None = None


@dataclass(frozen=True)
class FoldPlan:
    """All that decides a fold's result, and where its inputs are."""

    round: int  # the round that is closed
    manifest: Manifest
    strategy: Strategy
    wire: Wire
    clients: int  # K
    inputs: tuple[Input, ...]  # in client order
    weights: Digest  # before the round, in files.weights
    server: Digest | None  # before the round; None: all slots and the broadcast are zero


@dataclass(frozen=True)
class Folded:
    """What the round left in its run's folder, each whole and under its content hash."""

    weights: Digest
    message: Digest  # what clients fetch next; the same as `weights` for wire float32 without broadcast
    server: Digest | None
    seconds: float


def fold(files: RunFiles, plan: FoldPlan, block: int = BLOCK) -> Folded:
    """Raises StorageFull (nothing is left behind; call it again), CorruptStore for inputs that changed on disk."""
    raise NotImplementedError


def first_message(files: RunFiles, manifest: Manifest, strategy: Strategy, wire: Wire, weights: Digest) -> Digest:
    """Round 0: make what clients fetch for round 1 from the first weights, already in `files`."""
    raise NotImplementedError


def extract_states(files: RunFiles, inputs: Sequence[Input]) -> dict[ClientId, Digest]:
    """Each update's group `state` as a file of its own in `states/`; before the commit that names them."""
    raise NotImplementedError
