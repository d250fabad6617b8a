"""What a worker says of its machine is what it may use of it, in a container too."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest
from roundtable.errors import InvalidSetting
from worker import machine

MIB = 1 << 20


def folder(root: Path, **controls: str) -> Path:
    """Files of a control group; `cpu_max` is `cpu.max`."""
    root.mkdir(parents=True, exist_ok=True)
    for name, content in controls.items():
        (root / name.replace("_", ".", 1)).write_text(content + "\n")
    return root


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "own-cgroup"
    path.write_text("0::/\n")
    return path


@pytest.fixture
def four_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1, 2, 3}, raising=False)


def test_without_control_groups_it_is_the_affinity_and_the_machine_s_memory(
    tmp_path: Path, own: Path
) -> None:
    assert machine.cpus(tmp_path / "none", own) == len(os.sched_getaffinity(0))
    assert machine.memory_bytes(tmp_path / "none", own) == psutil.virtual_memory().total


@pytest.mark.usefixtures("four_processors")
@pytest.mark.parametrize(
    "quota, cpus", [("max 100000", 4), ("150000 100000", 2), ("50000 100000", 1), ("900000 100000", 4)]
)
def test_a_quota_cuts_the_processors(tmp_path: Path, own: Path, quota: str, cpus: int) -> None:
    assert machine.cpus(folder(tmp_path / "cgroup", cpu_max=quota), own) == cpus


@pytest.mark.usefixtures("four_processors")
def test_the_tightest_of_the_groups_around_the_process_counts(tmp_path: Path, own: Path) -> None:
    root = folder(tmp_path / "cgroup", memory_max="max")
    folder(root / "lab.slice", cpu_max="300000 100000", memory_max=str(64 * MIB))
    folder(root / "lab.slice" / "worker", cpu_max="max 100000", memory_max=str(128 * MIB))
    own.write_text("0::/lab.slice/worker\n")
    assert machine.cpus(root, own) == 3
    assert machine.memory_bytes(root, own) == 64 * MIB


@pytest.mark.usefixtures("four_processors")
def test_version_1_control_groups_count_too(tmp_path: Path, own: Path) -> None:
    root = tmp_path / "cgroup"
    folder(root / "cpu", cpu_cfs_quota_us="200000", cpu_cfs_period_us="100000")
    folder(root / "memory", memory_limit_in_bytes=str(32 * MIB))
    own.write_text("4:memory:/docker/abc\n")
    assert machine.cpus(root, own) == 2
    assert machine.memory_bytes(root, own) == 32 * MIB


def test_the_name_of_the_machine_is_never_empty() -> None:
    assert machine.host() and machine.arch()


def test_a_worker_that_may_use_too_little_memory_says_so_before_the_kernel_ends_it() -> None:
    with pytest.raises(InvalidSetting, match=r"this worker may use 256 MB.*needs some 400 MB: give it more"):
        machine.check_memory(given=256 * 2**20, free=2**33)


def test_a_worker_on_a_machine_that_is_full_says_so_before_the_kernel_ends_one() -> None:
    with pytest.raises(InvalidSetting, match=r"100 MB of memory and swap are free.*start fewer workers"):
        machine.check_memory(given=2**31, free=100 * 2**20)


def test_a_worker_with_room_enough_starts() -> None:
    machine.check_memory(given=2**30, free=2**30)
    machine.check_memory()
