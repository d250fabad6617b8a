"""The order of the files: what starts processes comes first.

With two workers and `--dist loadfile` a file is one worker's, whole: what takes a minute must not be what is
left at the end, when the other worker has nothing to do. pytest-xdist's order, by how many tests a file has,
leaves just those to the end; `--no-loadscope-reorder` in the Makefile keeps to this one.
"""

from __future__ import annotations

import pytest
from worker.runtime import configure_threads

LONG_FIRST = (
    "federation/test_faults.py",
    "lab/test_lab_processes.py",
    "worker/test_training.py",
    "page/",
    "lab/",
    "benchmarks/",
    "federation/",
    "worker/",
    "nodes/",
    "monitoring/",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def rank(item: pytest.Item) -> int:
        _, _, place = item.nodeid.partition("tests/")
        return next((i for i, start in enumerate(LONG_FIRST) if place.startswith(start)), len(LONG_FIRST))

    items.sort(key=rank)  # stable: inside a file nothing moves


@pytest.fixture(scope="session")
def one_thread() -> None:
    """TensorFlow as workers set it up, for who computes in the tests' own process: once, for all of them."""
    configure_threads(1, 1)
