"""A run's folder: what is received, what is kept, what is thrown away. Synchronous, for worker threads.

    STATE_DIR/lab.sqlite               the store (store.py)
    STATE_DIR/runs/<run>/weights/      global weights in their own dtypes, group `weights`: the checkpoints
    STATE_DIR/runs/<run>/messages/     what clients fetch, where that is not the weights file itself
    STATE_DIR/runs/<run>/server/       server optimizer slots and, as `broadcast`, what goes to clients
    STATE_DIR/runs/<run>/states/       client states, group `state`
    STATE_DIR/runs/<run>/spool/        uploads under way (`*.part`); accepted updates, one folder a round and
                                       trial. SPOOL_DIR/<run>/ where that is set

All but the spool's files are called `<content hash>.safetensors`, and never change. Every file is written
under another name, then renamed: a name that can be seen is a whole file. What the store does not name is an
orphan, and goes (`tidy`).
"""

from __future__ import annotations

import errno
import itertools
import os
import re
import shutil
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Literal

from roundtable.codec import Encoded
from roundtable.errors import StorageFull, Unknown
from roundtable.types import ClientId, Digest, RunId

from aggregator.rooms import Room, Rooms
from aggregator.rows import Wanted
from aggregator.tensors import map_file, write_at

Durability = Literal["process", "power"]
Kind = Literal["weights", "messages", "server", "states"]
Sent = Literal["weights", "states"]  # as clients ask for it

KINDS: Final[tuple[Kind, ...]] = ("weights", "messages", "server", "states")
VIEWS: Final = 2  # the weights of the round under way, and those being evaluated
SUFFIX: Final = ".safetensors"
PART: Final = ".part"
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_ROUND: Final = re.compile(r"(\d+)\.(\d+)")


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
        self.spool = self.folder / "spool" if spool_dir is None else spool_dir / run
        self.apart = spool_dir is not None  # the spool may be on another file system: moving is copying
        self._power = durability == "power"
        self._rooms = Rooms(self.spool)
        self._latest: tuple[int, int] | None = None  # round and trial whose folder is in the spool
        self._sent: OrderedDict[tuple[Sent, Digest], memoryview] = OrderedDict()  # the latest last
        self._counter = itertools.count()

    def prepare(self) -> None:
        """Make the folders; again is fine."""
        with no_space_is_storage_full(self.folder):
            for folder in (*(self.folder / kind for kind in KINDS), self.spool):
                folder.mkdir(parents=True, exist_ok=True)
                if self._power:
                    sync_folder(folder.parent)

    def remove(self) -> None:
        """Everything of the run, for good."""
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.rmtree(self.spool, ignore_errors=True)

    # --- uploads --------------------------------------------------------------------------------------------

    def part(self, label: str) -> Path:
        """Where an upload is received: an absent, unique `*.part` in the spool, for the caller to create."""
        safe = re.sub(r"[^A-Za-z0-9.-]", "_", label)[:100]
        return self.spool / f"{safe}.{os.getpid()}.{next(self._counter)}{PART}"

    def make_room(self, part: Path, nbytes: int) -> memoryview:
        """Create `part` with its space taken; what is written to these bytes is in the file."""
        with no_space_is_storage_full(part):
            return self._rooms.open(part, nbytes)

    def room(self, path: Path) -> Room | None:
        """Of an upload, accepted or not, where its bytes are in memory, and are what is in the file."""
        room = self._rooms.of(path)
        try:
            return room if room is not None and path.stat().st_size == room.nbytes else None
        except FileNotFoundError:
            return None

    def cut(self, part: Path, nbytes: int) -> None:
        """The upload was shorter than was said."""
        self._rooms.cut(part, nbytes)

    def discard(self, part: Path) -> None:
        """Remove an upload that was not accepted; absent is fine."""
        self._rooms.forget(part)
        part.unlink(missing_ok=True)

    def let_go(self) -> None:
        """The run is over: nothing is kept for uploads that will not come."""
        self._rooms.close()
        self._sent.clear()

    def spooled(self, round_number: int, trial: int, client: ClientId, digest: Digest) -> Path:
        """Where the accepted update is; named by its digest, so that no other upload ever replaces it."""
        return self.spool / f"{round_number:06d}.{trial}/{client:06d}.{_checked(digest)}{SUFFIX}"

    def accept_update(
        self, part: Path, round_number: int, trial: int, client: ClientId, digest: Digest
    ) -> Path:
        """Move a checked upload to its place, durably for this run; after that the store may record it."""
        place = self.spooled(round_number, trial, client, digest)
        with no_space_is_storage_full(place):
            if (round_number, trial) != self._latest:
                place.parent.mkdir(exist_ok=True)
                if self._power:
                    sync_folder(self.spool)
                self._latest = (round_number, trial)
            self._settle(part, place)
        self._rooms.moved(part, place)
        return place

    def accept_initial(self, part: Path, digest: Digest) -> Path:
        """Move the checked first weights to `weights/`, durably; after that the store may record them."""
        self._rooms.forget(part)
        return self.adopt(part, "weights", digest)

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

    def adopt(self, part: Path, kind: Kind, digest: Digest) -> Path:
        """Give a whole file its name, durably for this run."""
        place = self.path(kind, digest)
        with no_space_is_storage_full(place):
            self._settle(part, place)
        return place

    def write(self, kind: Kind, message: Encoded) -> Path:
        """Write and adopt a message; one that is there already is left as it is."""
        place = self.path(kind, message.digest)
        if place.exists():
            return place
        part = self.temporary(kind)
        with no_space_is_storage_full(place):
            try:
                file = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                try:
                    offset = 0
                    for buffer in message.buffers:
                        write_at(file, offset, buffer)
                        offset += len(buffer)
                finally:
                    os.close(file)
                self._settle(part, place)
            except BaseException:
                part.unlink(missing_ok=True)
                raise
        return place

    def kept(self, kind: Kind) -> list[Digest]:
        """What is there."""
        folder = self.folder / kind
        names = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
        return [name.removesuffix(SUFFIX) for name in names if name.endswith(SUFFIX)]

    # --- throwing away --------------------------------------------------------------------------------------

    def tidy(self, wanted: Wanted, *, starting: bool = False) -> None:
        """Remove what is not wanted. `starting`: no upload is under way, so left-overs of a crash go too."""
        keep: dict[Kind, set[Digest]] = {
            "weights": set(wanted.weights),
            "messages": set(wanted.messages),
            "server": set(wanted.server),
            "states": set(wanted.states),
        }
        for kind, digests in keep.items():
            folder = self.folder / kind
            for name in _names(folder):
                orphan = starting and name.endswith(PART)
                if orphan or (name.endswith(SUFFIX) and name.removesuffix(SUFFIX) not in digests):
                    (folder / name).unlink(missing_ok=True)
        self._tidy_spool(wanted, starting)

    def _tidy_spool(self, wanted: Wanted, starting: bool) -> None:
        rounds = set(wanted.rounds)
        for name in _names(self.spool):
            path = self.spool / name
            if name.endswith(PART):
                if starting:
                    path.unlink(missing_ok=True)
                continue
            found = _ROUND.fullmatch(name)
            if found is None:
                continue
            key = (int(found[1]), int(found[2]))
            if key in rounds:
                for update in _names(path):
                    self._rooms.forget(path / update)
            elif key < wanted.open or (starting and key > wanted.open):
                for update in _names(path):
                    self._rooms.give_back(path / update)
                with suppress(OSError):  # else there is something new in it, for the next time
                    path.rmdir()
            elif starting and key == wanted.open:
                accepted = {self.spooled(*key, client, digest).name for client, digest in wanted.accepted}
                for orphan in set(_names(path)) - accepted:
                    (path / orphan).unlink(missing_ok=True)

    # --- moving ---------------------------------------------------------------------------------------------

    def _existing(self, path: Path) -> Path:
        if not path.exists():
            raise Unknown(
                f"no {path.parent.name} {path.stem} here: it was replaced by a later round, or never was"
            )
        return path

    def _settle(self, part: Path, place: Path) -> None:
        if self._power:
            sync_file(part)
        try:
            os.rename(part, place)  # noqa: PTH104 -- Path.rename makes another path of it
        except OSError as error:
            if error.errno != errno.EXDEV:  # the spool is on another file system
                raise
            near = place.with_suffix(PART)
            shutil.copyfile(part, near)
            if self._power:
                sync_file(near)
            near.rename(place)
            part.unlink()
        if self._power:
            sync_folder(place.parent)


@contextmanager
def no_space_is_storage_full(place: Path) -> Iterator[None]:
    """Turns the system's errors for a full disk, quota or file size limit into StorageFull."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise StorageFull(
                f"no space left for {place}: free some, then resume the run; nothing accepted is lost"
            ) from None
        raise


def sync_file(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def sync_folder(path: Path) -> None:
    sync_file(path)


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208 -- paths cost more than the listing
    except FileNotFoundError:
        return []


def _checked(digest: Digest) -> Digest:
    """Digests come from requests too, and become file names here."""
    if not _DIGEST.fullmatch(digest):
        raise Unknown(f"{digest[:80]!r} is not a content hash: 64 lower-case hexadecimal digits are needed")
    return digest
