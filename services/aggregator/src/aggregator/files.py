"""A run's folder: what is received, what is kept, what is thrown away. Synchronous; called from worker threads.

    STATE_DIR/lab.sqlite                         the store (store.py)
    STATE_DIR/runs/<run>/weights/<hash>          global weights as float32, group `weights`: the checkpoints
    STATE_DIR/runs/<run>/messages/<hash>         what clients fetch, where that is not the weights file itself
    STATE_DIR/runs/<run>/server/<hash>           server optimizer slots and the float32 broadcast
    STATE_DIR/runs/<run>/states/<hash>           client states, group `state`
    STATE_DIR/runs/<run>/spool/                  uploads under way (`*.part`) and accepted updates; SPOOL_DIR/<run>/ if set

Every file ends in `.safetensors` and is written under another name, then renamed: a name that can be seen is a whole
file. Files named by their content hash are never changed. What the store does not name is an orphan, and goes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from aggregator.rows import Wanted
from roundtable.messages import Account, Initialized
from roundtable.types import ClientId, Digest, RunId
from roundtable.weights import Manifest

Durability = Literal["process", "power"]
Wire = Literal["float32", "float16"]


@dataclass(frozen=True)
class Checked:
    """What is known of an upload once it has been looked at."""

    digest: Digest
    nbytes: int
    account: Account
    state_digest: Digest | None = None  # of its group `state` as a message of its own


@dataclass(frozen=True)
class CheckedInitial:
    digest: Digest
    nbytes: int
    initialized: Initialized


class RunFiles:
    """The folder of one run. Raises StorageFull where the disk is, CorruptStore where a file is not what its name says."""

    def __init__(self, state_dir: Path, run: RunId, *, spool_dir: Path | None = None, durability: Durability = "process"):
        raise NotImplementedError

    def part(self, label: str) -> Path:
        """Where an upload is received: an absent, unique `*.part` in the spool. The caller creates and fills it."""
        raise NotImplementedError

    def discard(self, part: Path) -> None:
        """Remove an upload that was not accepted; absent is fine."""
        raise NotImplementedError

    def spooled(self, round_number: int, trial: int, client: ClientId, digest: Digest) -> Path:
        """Where the accepted update is."""
        raise NotImplementedError

    def accept_update(self, part: Path, round_number: int, trial: int, client: ClientId, digest: Digest) -> Path:
        """Move a checked upload to its place, durably for this run's durability; then the store may record it."""
        raise NotImplementedError

    def accept_initial(self, part: Path, digest: Digest) -> Path:
        """Move the checked first weights to `weights/`, durably."""
        raise NotImplementedError

    def weights(self, digest: Digest) -> Path:
        """The checkpoint file. Raises Unknown."""
        raise NotImplementedError

    def message(self, digest: Digest) -> Path:
        """What GET /v1/weights/{digest} sends: from `messages/`, else `weights/`. Raises Unknown."""
        raise NotImplementedError

    def state(self, digest: Digest) -> Path:
        """What GET /v1/states/{digest} sends. Raises Unknown."""
        raise NotImplementedError

    def tidy(self, wanted: Wanted, *, parts: bool = False) -> None:
        """Remove all that is not wanted; at start-up, when no upload is under way, left-over `*.part` too (`parts`)."""
        raise NotImplementedError


def check_update(path: Path, expected: Mapping[str, Manifest], wire: Wire) -> Checked:
    """Look at an upload in place (memory-mapped). Raises InvalidPayload and its kin; InvalidInput for a bad account."""
    raise NotImplementedError


def check_initial(path: Path) -> CheckedInitial:
    """The same for the reply to an initialize order (float32 or whatever dtypes its manifest says)."""
    raise NotImplementedError
