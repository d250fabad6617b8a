"""Which hosts are this machine alone."""

from __future__ import annotations

import pytest
from roundtable.hosts import is_loopback


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.0.3", "::1", "[::1]", "localhost", "lab.localhost"])
def test_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["", "0.0.0.0", "::", "192.168.1.4", "[fd00::1]", "notlocalhost", "localhost.example"]
)
def test_others(host: str) -> None:
    assert not is_loopback(host)
