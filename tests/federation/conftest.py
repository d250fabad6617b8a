"""One lab for all of these tests: workers take long to start, and serve one run after the other anyway."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.federation.processes import Lab


@pytest.fixture(scope="session")
def shared_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab(tmp_path_factory.mktemp("lab"))
    try:
        lab.start_aggregator()
        yield lab
    finally:
        lab.stop()


@pytest.fixture
def lab(shared_lab: Lab) -> Iterator[Lab]:
    """The shared lab; what a test leaves unfinished is stopped."""
    yield shared_lab
    shared_lab.stop_runs()
