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
from pathlib import Path
from typing import Final

KEPT: Final = 64  # maps held at a time; each takes a file descriptor
_GRAIN: Final = 64 << 10  # bytes: lengths differ a little from one update of an order to the next


class Rooms:
    """Of one run's spool. Thread-safe. Raises OSError as the file system does."""

    def __init__(self, spool: Path) -> None:
        self._spool = spool
        self._held: dict[Path, mmap.mmap] = {}
        self._spare: list[tuple[Path, mmap.mmap]] = []
        self._names = (spool / f"spare.{os.getpid()}.{number}.part" for number in itertools.count())
        self._closed = False
        self._lock = threading.Lock()

    def open(self, path: Path, nbytes: int) -> memoryview:
        """Make `path`, which is absent, a file of `nbytes` whose space is taken; its bytes, to be written."""
        with self._lock:
            fitting = (room for room in self._spare if nbytes <= len(room[1]) <= 2 * nbytes + 2 * _GRAIN)
            spare = next(fitting, None)
            if spare is not None:
                self._spare.remove(spare)
        mapping = _make(path, nbytes) if spare is None else _refit(*spare, path, nbytes)
        with self._lock:
            self._held[path] = mapping
        return memoryview(mapping)[:nbytes]

    def bytes_of(self, path: Path) -> memoryview | None:
        """The file's bytes, where it is held."""
        with self._lock:
            mapping = self._held.get(path)
        return None if mapping is None else memoryview(mapping)[: path.stat().st_size]

    def moved(self, path: Path, place: Path) -> None:
        """The file has another name now; among too many it is held no more."""
        with self._lock:
            mapping = self._held.pop(path, None)
            if mapping is not None and len(self._held) < KEPT:
                self._held[place] = mapping

    def forget(self, path: Path) -> None:
        """The file stays, but not as a room."""
        with self._lock:
            self._held.pop(path, None)

    def give_back(self, path: Path) -> None:
        """What is in the file is no longer needed: it becomes a spare room, or goes; absent is fine."""
        with self._lock:
            mapping = self._held.pop(path, None)
            if mapping is not None and not self._closed and len(self._spare) < KEPT:
                name = next(self._names)
                path.rename(name)
                self._spare.append((name, mapping))
                return
        path.unlink(missing_ok=True)

    def close(self) -> None:
        """Spare rooms go, and no more are kept. What is held stays where it is."""
        with self._lock:
            self._closed = True
            for path, _ in self._spare:
                path.unlink(missing_ok=True)
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


def _refit(spare: Path, mapping: mmap.mmap, path: Path, nbytes: int) -> mmap.mmap:
    file = os.open(spare, os.O_RDWR)
    try:
        os.posix_fallocate(file, 0, nbytes)
        os.ftruncate(file, nbytes)
    finally:
        os.close(file)
    spare.rename(path)
    return mapping
