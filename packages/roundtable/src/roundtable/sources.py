"""Which code runs here: one hash over the source of packages, for what is compared across machines.

Studies ask for it (results of different code never stand side by side); workers tell theirs at join, the
aggregator with each run.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from blake3 import blake3

from roundtable.errors import InvalidData
from roundtable.types import Digest


@cache
def code_hash(*packages: str) -> Digest:
    """BLAKE3 over each source file's name and bytes, in order; as it was when first asked for."""
    digest = blake3()
    for path, name in sorted(_files(packages), key=lambda found: found[1]):
        body = path.read_bytes()
        digest.update(f"{name} {len(body)}\n".encode() + body)
    return digest.hexdigest()


def _files(packages: Iterable[str]) -> Iterable[tuple[Path, str]]:
    for package in packages:
        spec = find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise InvalidData(f"{package} is not installed: run `make setup`")
        for folder in map(Path, spec.submodule_search_locations):
            for path in folder.rglob("*.py"):
                yield path, f"{package}/{path.relative_to(folder).as_posix()}"
