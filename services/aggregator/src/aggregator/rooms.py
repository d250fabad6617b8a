"""The spool's files as memory: mapped when an upload begins, and used again for later ones.

Making, filling and removing a fresh file costs more than receiving into it: every page is found, cleared,
faulted in, and freed again. So a room (a file and its map) serves an upload from its first byte to its fold,
and then the next upload. A room is given away only once nothing in the store names what is in it. Rooms
beyond KEPT are not held: their files are read by path, and removed when they are done with.
"""

from __future__ import annotations

import itertools
import mmap
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from roundtable.layout import Header

KEPT: Final = 64  # maps held at a time; each takes a file descriptor
_GRAIN: Final = 64 << 10  # bytes: lengths differ a little from one update of an order to the next


@dataclass(eq=False)
class Room:
    """A file and its map, and what is known of the upload in it."""

    path: Path
    mapping: mmap.mmap
    nbytes: int  # of the upload
    header: Header | None = None  # once somebody has looked

    @property
    def content(self) -> memoryview:
        """The upload's bytes."""
        return memoryview(self.mapping)[: self.nbytes]


class Rooms:
    """Of one run's spool. Thread-safe. Raises OSError as the file system does."""

    def __init__(self, spool: Path) -> None:
        self._held: dict[Path, Room] = {}
        self._spare: list[Room] = []
        self._names = (spool / f"spare.{os.getpid()}.{number}.part" for number in itertools.count())
        self._closed = False
        self._lock = threading.Lock()

    def open(self, path: Path, nbytes: int) -> memoryview:
        """Make `path`, which is absent, a file of `nbytes` whose space is taken; its bytes, to be written."""
        with self._lock:
            fits = (room for room in self._spare if nbytes <= len(room.mapping) <= 2 * nbytes + 2 * _GRAIN)
            spare = next(fits, None)
            if spare is not None:
                self._spare.remove(spare)
        room = Room(path, _make(path, nbytes) if spare is None else _refit(spare, path, nbytes), nbytes)
        with self._lock:
            self._held[path] = room
        return room.content

    def of(self, path: Path) -> Room | None:
        """The file's room, where it is held."""
        with self._lock:
            return self._held.get(path)

    def cut(self, path: Path, nbytes: int) -> None:
        """The upload was shorter than was said."""
        os.truncate(path, nbytes)
        with self._lock:
            if (room := self._held.get(path)) is not None:
                room.nbytes = nbytes

    def moved(self, path: Path, place: Path) -> None:
        """The file has another name now; among too many it is held no more."""
        with self._lock:
            room = self._held.pop(path, None)
            if room is not None and len(self._held) < KEPT:
                room.path = place
                self._held[place] = room

    def forget(self, path: Path) -> None:
        """The file stays, but not as a room."""
        with self._lock:
            self._held.pop(path, None)

    def give_back(self, path: Path) -> None:
        """What is in the file is no longer needed: it becomes a spare room, or goes; absent is fine."""
        with self._lock:
            room = self._held.pop(path, None)
            if room is not None and not self._closed and len(self._spare) < KEPT:
                room.path = next(self._names)
                os.rename(path, room.path)  # noqa: PTH104 -- Path.rename makes another path of it
                self._spare.append(room)
                return
        path.unlink(missing_ok=True)

    def close(self) -> None:
        """Spare rooms go, and no more are kept. What is held stays where it is."""
        with self._lock:
            self._closed = True
            for room in self._spare:
                room.path.unlink(missing_ok=True)
            self._spare.clear()


def _make(path: Path, nbytes: int) -> mmap.mmap:
    room = (nbytes // _GRAIN + 2) * _GRAIN
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        # The space is taken before it is written to: a map meets a full disk with SIGBUS, not with an error.
        os.posix_fallocate(file, 0, room)
        mapping = mmap.mmap(file, room)
        os.ftruncate(file, nbytes)
        return mapping
    finally:
        os.close(file)


def _refit(spare: Room, path: Path, nbytes: int) -> mmap.mmap:
    if nbytes != spare.nbytes:
        file = os.open(spare.path, os.O_RDWR)
        try:
            os.posix_fallocate(file, 0, nbytes)
            os.ftruncate(file, nbytes)
        finally:
            os.close(file)
    os.rename(spare.path, path)  # noqa: PTH104 -- as above
    return spare.mapping
