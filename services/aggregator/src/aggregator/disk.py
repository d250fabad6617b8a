"""Files that are there whole or not at all: a disk that is full, names given at the end, a power cut.

Beneath `files` and `spool`, which know what the files are.
"""

from __future__ import annotations

import errno
import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, TypeAlias

from roundtable.errors import CorruptStore, StorageFull

Place: TypeAlias = str | os.PathLike[str]

SUFFIX: Final = ".safetensors"
PART: Final = ".part"
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@contextmanager
def failing_disk_is_storage_full(place: Place) -> Iterator[None]:
    """Turns the system's errors into StorageFull: no space left, or a disk that has become read-only or is
    gone for a while. All of them can pass; that a folder is removed does not: CorruptStore.
    """
    try:
        yield
    except OSError as error:
        if (folder := _removed(error, place)) is not None:
            raise CorruptStore(f"{folder} is gone: put it back if you can, then resume the run") from None
        full = error.errno in _FULL  # quotas and limits, too
        fault = f"no space left for {place}" if full else f"{place} cannot be written ({error.strerror})"
        mend = "free some" if full else "mend that"
        raise StorageFull(f"{fault}: {mend}, then resume the run; nothing accepted is lost") from None


def _removed(error: OSError, place: Place) -> Path | None:
    if error.errno != errno.ENOENT:
        return None
    named = (name for name in (error.filename, error.filename2, place) if name is not None)
    return next((folder for folder in (Path(name).parent for name in named) if not folder.is_dir()), None)


def settle(part: Place, place: Place, *, power: bool) -> None:
    """Give a whole file its name, be it on another file system; `power`: so that it outlives a power cut."""
    if power:
        sync_file(part)
    try:
        os.rename(part, place)  # noqa: PTH104 -- Path.rename makes another path of it
    except OSError as error:
        if error.errno != errno.EXDEV:  # the spool is on another file system
            raise
        near = Path(place).with_suffix(PART)
        shutil.copyfile(part, near)
        if power:
            sync_file(near)
        near.rename(place)
        Path(part).unlink()
    if power:
        sync_folder(Path(place).parent)


def sync_file(path: Place) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def sync_folder(path: Place) -> None:
    sync_file(path)


def names(folder: Place) -> list[str]:
    """What is in the folder; nothing where it is not there."""
    try:
        return os.listdir(folder)  # noqa: PTH208 -- paths cost more than the listing
    except FileNotFoundError:
        return []


def allow_files() -> None:
    """As many open ones as this process may have: a fold maps every update of its round, and most shells
    grant 1024.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):  # macOS says unlimited, and does not mean it
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
