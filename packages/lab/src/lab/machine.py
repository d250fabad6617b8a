"""What a result has to say about where it was made: versions, machine, state of the code."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict

PACKAGES = (
    "roundtable",
    "tensorflow",
    "keras",
    "numpy",
    "scikit-learn",
    "fastapi",
    "uvicorn",
    "httpx",
    "pydantic",
    "blake3",
)


class Environment(BaseModel):
    """The machine `lab` ran on. In native mode the aggregator and the workers ran on it too."""

    model_config = ConfigDict(frozen=True)

    python: str
    packages: dict[str, str]  # name → version, of those that are installed
    platform: str
    cpu: str
    cores: int  # logical, that this process may use
    memory_bytes: int
    git_commit: str | None  # of the repository that this source is in; nothing where it is in none
    git_dirty: bool | None


def here() -> Environment:
    # Tracked there, and not just installed somewhere inside of a repository.
    own = _git("ls-files", "--error-unmatch", Path(__file__).name) is not None
    return Environment(
        python=platform.python_version(),
        packages={name: found for name in PACKAGES if (found := _version(name))},
        platform=platform.platform(),
        cpu=_cpu(),
        cores=len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1,
        memory_bytes=psutil.virtual_memory().total,
        git_commit=_git("rev-parse", "HEAD") if own else None,
        git_dirty=bool(_git("status", "--porcelain", "--untracked-files=no")) if own else None,
    )


def _version(name: str) -> str | None:
    for candidate in (name, f"{name}-cpu"):
        with suppress(PackageNotFoundError):
            return version(candidate)
    return None


def _cpu() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("model name", "Model", "Hardware") and value.strip():
                return value.strip()
    return platform.processor() or platform.machine()


def _git(*arguments: str) -> str | None:
    """Of the repository that this source is in, wherever `lab` was started."""
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
