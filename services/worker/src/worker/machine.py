"""What this machine is, for the join message: as much of it as this process may use.

A container sees its host's processors and memory in /proc; what it was given is in its control group.
"""

from __future__ import annotations

import os
import platform
import shutil
import socket
from math import ceil
from pathlib import Path
from typing import Final

import psutil
from roundtable.errors import InvalidSetting

NEEDED: Final = 400 * 2**20  # bytes: TensorFlow and the smallest network of task mnist, measured
CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")


def host() -> str:
    return socket.gethostname() or "localhost"


def arch() -> str:
    return platform.machine() or "unknown"


def cpus(cgroups: Path = CGROUPS, own: Path = OWN_CGROUP) -> int:
    """Processors this process may run on: its affinity, cut by its control groups' quotas, at least 1."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [quota for folder in _folders(cgroups, own) if (quota := _cpu_quota(folder)) is not None]
    return max(1, min([affinity, *(ceil(quota) for quota in quotas)]))


def memory_bytes(cgroups: Path = CGROUPS, own: Path = OWN_CGROUP) -> int:
    """Memory this process may use: the machine's, cut by its control groups' limits."""
    limits = [limit for folder in _folders(cgroups, own) if (limit := _memory_limit(folder)) is not None]
    return int(min([psutil.virtual_memory().total, *limits]))


def disk_free_bytes(folder: Path | None = None) -> int | None:
    """What this user may still write on the disk of `folder`: the one this process was started in, which in a
    container is the disk of the machine under it. None where nobody can say.
    """
    try:
        return shutil.disk_usage(folder or Path.cwd()).free
    except OSError:
        return None


def check_memory(given: int | None = None, free: int | None = None) -> None:
    """Before TensorFlow is loaded: raises InvalidSetting where the kernel would soon end this process.

    `given`: bytes it may use; `free`: bytes of memory and swap that nobody on the machine uses.
    """
    given = memory_bytes() if given is None else given
    if given < NEEDED:
        raise InvalidSetting(
            f"memory: this worker may use {_mb(given)}, and TensorFlow with a small model needs some "
            f"{_mb(NEEDED)}: give it more (WORKER_MEMORY of the compose lab)"
        )
    free = psutil.virtual_memory().available + psutil.swap_memory().free if free is None else free
    if free < NEEDED:
        raise InvalidSetting(
            f"memory: {_mb(free)} of memory and swap are free on this machine, and a worker needs some "
            f"{_mb(NEEDED)}: start fewer workers (--scale worker=N of the compose lab), or end something else"
        )


def _mb(size: int) -> str:
    return f"{size / 2**20:.0f} MB"


def _folders(cgroups: Path, own: Path) -> list[Path]:
    """The control group this process is in and its parents (version 2), and version 1's own mounts."""
    folders = [cgroups, cgroups / "cpu", cgroups / "memory"]
    for line in _read(own).splitlines():
        number, _, path = line.partition("::")
        if number == "0" and path.startswith("/"):
            folder = cgroups / path.lstrip("/")
            folders += [folder, *(parent for parent in folder.parents if cgroups in parent.parents)]
    return folders


def _cpu_quota(folder: Path) -> float | None:
    fields = _read(folder / "cpu.max").split()  # version 2: "max 100000" or "150000 100000"
    if not fields:
        fields = [_read(folder / f"cpu.cfs_{what}_us").strip() for what in ("quota", "period")]
    if len(fields) == 2 and all(field.isdigit() for field in fields) and int(fields[1]) > 0:
        return int(fields[0]) / int(fields[1])
    return None


def _memory_limit(folder: Path) -> int | None:
    for name in ("memory.max", "memory.limit_in_bytes"):
        limit = _read(folder / name).strip()
        if limit.isdigit() and int(limit) > 0:
            return int(limit)
    return None


def _read(path: Path) -> str:
    """The file's text; nothing where there is no such control."""
    try:
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return ""
