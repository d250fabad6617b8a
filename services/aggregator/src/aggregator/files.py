"""A run's folder: what is kept, and what is thrown away. Synchronous, for worker threads.

    STATE_DIR/lab.sqlite               the store (store.py)
    STATE_DIR/runs/<run>/weights/      global weights in their own dtypes, group `weights`: the checkpoints
    STATE_DIR/runs/<run>/messages/     what clients fetch, where that is not the weights file itself
    STATE_DIR/runs/<run>/server/       server optimizer slots and, as `broadcast`, what goes to clients
    STATE_DIR/runs/<run>/states/       client states, group `state`
    STATE_DIR/runs/<run>/spool/        uploads and accepted updates (spool.py); SPOOL_DIR/<run>/ where set

All but the spool's files are called `<content hash>.safetensors`, and never change. Every file is written
under another name, then renamed: a name that can be seen is a whole file. What the store does not name is an
orphan, and goes (`tidy`).
"""

from __future__ import annotations

import itertools
import os
import re
from collections import OrderedDict
from pathlib import Path
from typing import Final, Literal

from roundtable.codec import Encoded
from roundtable.errors import Unknown
from roundtable.types import Digest, RunId

from aggregator.disk import PART, SUFFIX, Place, failing_disk_is_storage_full, names, settle, sync_folder
from aggregator.rows import Wanted
from aggregator.spool import Room, Spool
from aggregator.tensors import map_file, write_at

Durability = Literal["process", "power"]
Kind = Literal["weights", "messages", "server", "states"]
Sent = Literal["weights", "states"]  # as clients ask for it

KINDS: Final[tuple[Kind, ...]] = ("weights", "messages", "server", "states")
VIEWS: Final = 2  # the weights of the round under way, and those being evaluated
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


class RunFiles:
    """The folder of one run. Methods that write raise StorageFull where the disk is full."""

    def __init__(
        self,
        state_dir: Path,
        run: RunId,
        *,
        spool_dir: Path | None = None,
        durability: Durability = "process",
    ) -> None:
        self.folder = state_dir / "runs" / run
        self.apart = spool_dir is not None  # the spool may be on another file system: moving is copying
        self._power = durability == "power"
        self.spool = Spool(self.folder / "spool" if spool_dir is None else spool_dir / run, power=self._power)
        self._there: dict[Kind, set[Digest]] = {}  # as far as it was looked up
        self._sent: OrderedDict[tuple[Sent, Digest], memoryview] = OrderedDict()  # the latest last
        self._counter = itertools.count()

    def prepare(self) -> None:
        """Make the folders; again is fine."""
        with failing_disk_is_storage_full(self.folder):
            for folder in (*(self.folder / kind for kind in KINDS), self.spool.folder):
                folder.mkdir(parents=True, exist_ok=True)
                if self._power:
                    sync_folder(folder.parent)

    def let_go(self) -> None:
        """The run is over: nothing is kept for uploads that will not come."""
        self.spool.close()
        self._sent.clear()

    def accept_initial(self, room: Room, digest: Digest) -> Path:
        """Move the checked first weights to `weights/`, durably; after that the store may record them."""
        return self.adopt(room.place, "weights", digest)

    # --- content-addressed files ----------------------------------------------------------------------------

    def path(self, kind: Kind, digest: Digest) -> Path:
        """Where it is, or would be."""
        return self.folder / f"{kind}/{_checked(digest)}{SUFFIX}"

    def weights(self, digest: Digest) -> Path:
        """The checkpoint. Raises Unknown."""
        return self._existing(self.path("weights", digest))

    def message(self, digest: Digest) -> Path:
        """What GET /v1/weights/{digest} sends. Raises Unknown."""
        apart = self.path("messages", digest)
        return apart if apart.exists() else self.weights(digest)

    def state(self, digest: Digest) -> Path:
        """What GET /v1/states/{digest} sends. Raises Unknown."""
        return self._existing(self.path("states", digest))

    def content(self, kind: Sent, digest: Digest) -> memoryview:
        """The bytes of what clients fetch, mapped once for all who ask for it about the same time. Raises
        Unknown."""
        view = self._sent.get((kind, digest))
        if view is None:
            path = self.message(digest) if kind == "weights" else self.state(digest)
            view = self._sent[kind, digest] = memoryview(map_file(path))
            while len(self._sent) > VIEWS:
                self._sent.popitem(last=False)
        return view

    def temporary(self, kind: Kind) -> Path:
        """Where a file of this kind is written before it is adopted: an absent, unique `*.part`."""
        return self.folder / kind / f"{os.getpid()}.{next(self._counter)}{PART}"

    def adopt(self, part: Place, kind: Kind, digest: Digest) -> Path:
        """Give a whole file its name, durably for this run."""
        place = self.path(kind, digest)
        with failing_disk_is_storage_full(place):
            settle(part, place, power=self._power)
        if kind in self._there:
            self._there[kind].add(digest)
        return place

    def write(self, kind: Kind, message: Encoded) -> Path:
        """Write and adopt a message; one that is there already is left as it is."""
        place = self.path(kind, message.digest)
        if place.exists():
            return place
        part = self.temporary(kind)
        with failing_disk_is_storage_full(place):
            try:
                file = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                try:
                    offset = 0
                    for buffer in message.buffers:
                        write_at(file, offset, buffer)
                        offset += len(buffer)
                finally:
                    os.close(file)
                self.adopt(part, kind, message.digest)
            except BaseException:
                part.unlink(missing_ok=True)
                raise
        return place

    def kept(self, kind: Kind) -> list[Digest]:
        """What is there."""
        found = sorted(names(self.folder / kind))
        return [name.removesuffix(SUFFIX) for name in found if name.endswith(SUFFIX)]

    # --- throwing away --------------------------------------------------------------------------------------

    def tidy(self, wanted: Wanted, *, starting: bool = False) -> None:
        """Remove what is not wanted. `starting`, or finished: left-overs too, no upload under way counts."""
        keep = {
            "weights": wanted.weights,
            "messages": wanted.messages,
            "server": wanted.server,
            "states": wanted.states,
        }
        for kind in KINDS:
            if kind not in self._there:
                self._there[kind] = set(self.kept(kind))
            there = self._there[kind]
            for digest in there.difference(keep[kind]):
                self.path(kind, digest).unlink(missing_ok=True)
                there.remove(digest)
            if starting:
                for name in names(self.folder / kind):
                    if name.endswith(PART):
                        (self.folder / kind / name).unlink(missing_ok=True)
        self.spool.tidy(wanted, starting=starting)

    # --- names ----------------------------------------------------------------------------------------------

    def _existing(self, path: Path) -> Path:
        if not path.exists():
            raise Unknown(
                f"no {path.parent.name} {path.stem} here: it was replaced by a later round, or never was"
            )
        return path


def _checked(digest: Digest) -> Digest:
    """Digests come from requests too, and become file names here."""
    if not _DIGEST.fullmatch(digest):
        raise Unknown(f"{digest[:80]!r} is not a content hash: 64 lower-case hexadecimal digits are needed")
    return digest
