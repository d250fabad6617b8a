"""The spool: where uploads are received, and accepted updates wait for their fold. Of one run.

    <process>.<number>.part                                  an upload under way, or a spare room
    <round>.<trial>.<client>.<content hash>.safetensors      an accepted update: never replaced

Making, filling and removing a fresh file costs more than receiving into it: every page is found, cleared,
faulted in, and freed again. So a room (a file and its map) serves an upload from its first byte to its fold,
and then the next upload. A room is given to another only once nothing in the store names what is in it. Rooms
beyond KEPT are not held: their files are read by name, and removed when they are done with.

Names are plain strings here: a round asks for them some forty times, and Path objects were a tenth of it. No
folders: to remove one waits for the disk.
"""

from __future__ import annotations

import itertools
import mmap
import os
import re
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from roundtable.layout import Header
from roundtable.types import ClientId, Digest

from aggregator.disk import PART, SUFFIX, failing_disk_is_storage_full, names, settle
from aggregator.rows import Wanted

KEPT: Final = 64  # maps held at a time; each takes a file descriptor
_GRAIN: Final = 64 << 10  # bytes: lengths differ a little from one update of an order to the next
_UPDATE: Final = re.compile(r"(\d+)\.(\d+)\.\d+\.[0-9a-f]{64}" + re.escape(SUFFIX))

Trial = tuple[int, int]  # (round, trial)

_numbers: Final = itertools.count()  # of all spools: a run that is resumed has a new one over the same folder


@dataclass(eq=False)
class Room:
    """A file and its map, and what is known of the upload in it."""

    place: str
    mapping: mmap.mmap
    nbytes: int  # of the upload
    header: Header | None = None  # once somebody has looked

    @property
    def content(self) -> memoryview:
        """The upload's bytes."""
        return memoryview(self.mapping)[: self.nbytes]


class Spool:
    """Thread-safe. Methods that write raise StorageFull where the disk is full."""

    def __init__(self, folder: Path, *, power: bool = False) -> None:
        self.folder = folder
        self._power = power
        self._prefix = f"{folder}/"
        self._held: dict[str, Room] = {}  # accepted ones, by their place
        self._spare: list[Room] = []
        self._there: dict[Trial, set[str]] | None = None  # places of accepted updates; None: not looked yet
        self._closed = False
        self._lock = threading.Lock()

    # --- uploads --------------------------------------------------------------------------------------------

    def open(self, nbytes: int) -> Room:
        """A room of `nbytes`, its space on the disk taken: what is written to its content is in its file."""
        with self._lock:
            fits = (room for room in self._spare if nbytes <= len(room.mapping) <= 2 * nbytes + 2 * _GRAIN)
            spare = next(fits, None)
            if spare is not None:
                self._spare.remove(spare)
        place = self._part() if spare is None else spare.place
        with failing_disk_is_storage_full(place):
            if spare is None:
                return Room(place, _make(place, nbytes), nbytes)
            try:
                if spare.nbytes != nbytes:
                    _resize(place, nbytes)
            except OSError:
                _remove(place)
                raise
            return Room(place, spare.mapping, nbytes)

    def discard(self, room: Room) -> None:
        """Remove an upload, unless it was accepted meanwhile: its sender may be gone before that is known."""
        if room.place.endswith(PART):
            _remove(room.place)

    def accept(self, room: Room, trial: Trial, client: ClientId, digest: Digest) -> None:
        """Move a checked upload to its place, durably for this run; after that the store may record it."""
        place = self.place(trial, client, digest)
        with failing_disk_is_storage_full(place):
            settle(room.place, place, power=self._power)
        room.place = place
        with self._lock:
            self._accepted().setdefault(trial, set()).add(place)
            if len(self._held) < KEPT:
                self._held[place] = room

    # --- accepted updates -----------------------------------------------------------------------------------

    def place(self, trial: Trial, client: ClientId, digest: Digest) -> str:
        """Where the accepted update is; named by its digest, so that no other upload ever replaces it."""
        return f"{self._prefix}{trial[0]:06d}.{trial[1]}.{client:06d}.{digest}{SUFFIX}"

    def path(self, trial: Trial, client: ClientId, digest: Digest) -> Path:
        """The same, for those who have time."""
        return Path(self.place(trial, client, digest))

    def room(self, place: str) -> Room | None:
        """Of an accepted update, where its bytes are in memory, and are what is in the file."""
        with self._lock:
            room = self._held.get(place)
        try:
            return room if room is not None and os.stat(place).st_size == room.nbytes else None  # noqa: PTH116
        except FileNotFoundError:
            return None

    # --- throwing away --------------------------------------------------------------------------------------

    def tidy(self, wanted: Wanted, *, starting: bool = False) -> None:
        """Updates that are not wanted go, their rooms are for later uploads. `starting`, or finished: no
        upload under way counts, so left-overs go too."""
        gone: list[str] = []
        with self._lock:
            there = self._accepted()
            if starting:
                self._clear_left_overs(there, wanted)
            for trial in sorted(there):
                if trial in wanted.rounds:
                    for place in there[trial]:
                        self._held.pop(place, None)  # it stays, but not as a room
                elif trial < wanted.open:
                    gone += [place for place in there.pop(trial) if not self._given_back(place)]
        for place in gone:  # without the lock: it may wait for the disk, and uploads come in
            _remove(place)

    def _clear_left_overs(self, there: dict[Trial, set[str]], wanted: Wanted) -> None:
        for name in names(self.folder):
            if name.endswith(PART):
                _remove(self._prefix + name)
        accepted = {self.place(wanted.open, client, digest) for client, digest in wanted.accepted}
        for trial in [trial for trial in there if trial >= wanted.open]:
            for place in there[trial] - accepted:
                _remove(place)
            there[trial] &= accepted

    def _given_back(self, place: str) -> bool:
        """Whether it is a spare room now; else its file is to go."""
        room = self._held.pop(place, None)
        if room is None or self._closed or len(self._spare) >= KEPT:
            return False
        spare = Room(self._part(), room.mapping, room.nbytes)
        try:
            os.rename(place, spare.place)  # noqa: PTH104 -- see above
        except FileNotFoundError:  # somebody has removed it
            return False
        self._spare.append(spare)
        return True

    def close(self) -> None:
        """The run is over: spare rooms go, and no more are kept. What is accepted stays where it is."""
        with self._lock:
            self._closed = True
            for room in self._spare:
                _remove(room.place)
            self._spare.clear()

    # --- names ----------------------------------------------------------------------------------------------

    def _part(self) -> str:
        """An absent, unique one."""
        return f"{self._prefix}{os.getpid()}.{next(_numbers)}{PART}"

    def _accepted(self) -> dict[Trial, set[str]]:
        """Only this object makes and removes any, so that one look is enough."""
        if self._there is None:
            self._there = {}
            for name in names(self.folder):
                if found := _UPDATE.fullmatch(name):
                    trial = (int(found[1]), int(found[2]))
                    self._there.setdefault(trial, set()).add(self._prefix + name)
        return self._there


def _make(place: str, nbytes: int) -> mmap.mmap:
    room = (nbytes // _GRAIN + 2) * _GRAIN
    file = os.open(place, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        # The space is taken before it is written to: a map meets a full disk with SIGBUS, not with an error.
        os.posix_fallocate(file, 0, room)
        mapping = mmap.mmap(file, room)
        os.ftruncate(file, nbytes)
        return mapping
    except BaseException:
        _remove(place)
        raise
    finally:
        os.close(file)


def _resize(place: str, nbytes: int) -> None:
    file = os.open(place, os.O_RDWR)
    try:
        os.posix_fallocate(file, 0, nbytes)
        os.ftruncate(file, nbytes)
    finally:
        os.close(file)


def _remove(place: str) -> None:
    """Absent is fine; what the disk does not let go of now goes with the left-overs at a start."""
    with suppress(OSError):
        os.unlink(place)  # noqa: PTH108 -- see above
