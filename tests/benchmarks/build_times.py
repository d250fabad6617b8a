"""`make bench-images`: seconds to build both images with nothing cached, and after a change of code; sizes.

The base image is pulled beforehand; what is downloaded on the way counts. A copy of the tree is built, so
that the change is made there. Needs Docker, some minutes, and 5 GB of disk that `docker builder prune` frees.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.stack.compose_stack import ROOT, docker, engine_answers

BASE = "python:3.11-slim-bookworm"
SERVICES = ("aggregator", "worker")
SENT = (
    "packages",
    "services",
    "experiments",
    "datasets/mnist.npz",
    "pyproject.toml",
    "uv.lock",
    ".dockerignore",
)


@dataclass(frozen=True)
class Built:
    service: str
    cold_s: float
    warm_s: float
    size_mb: float


def measure(service: str) -> Built:
    image = f"roundtable-bench-{service}:{os.getpid()}"
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        tree = Path(folder)
        for name in SENT:
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / name, tree / name)
        try:
            cold = _build(tree, service, image, "--no-cache")
            with (tree / "services" / service / "src" / service / "__init__.py").open(
                "a", encoding="utf-8"
            ) as code:
                code.write(f"\nCHANGED = {time.time()}\n")
            warm = _build(tree, service, image)
            size = int(docker("image", "inspect", "-f", "{{.Size}}", image)) / 1e6
        finally:
            subprocess.run(["docker", "image", "rm", image], capture_output=True, timeout=60)
    return Built(service, cold, warm, size)


def _build(tree: Path, service: str, image: str, *options: str) -> float:
    begun = time.monotonic()
    words = (
        "--quiet",
        *options,
        "--file",
        str(tree / "services" / service / "Dockerfile"),
        "--tag",
        image,
        str(tree),
    )
    docker("build", *words, timeout=3600)
    return time.monotonic() - begun


def told(built: Sequence[Built]) -> str:
    """Markdown, as docs/benchmarks.md has it."""
    lines = ["| image | nothing cached | after a change of code | size |", "| --- | --- | --- | --- |"]
    lines += [
        f"| {one.service} | {one.cold_s:.0f} s | {one.warm_s:.1f} s | {one.size_mb:.0f} MB |" for one in built
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.build_times", description=__doc__)
    parser.add_argument("services", nargs="*", metavar="IMAGE", help="aggregator or worker; default: both")
    options = parser.parse_args()
    if unknown := set(options.services) - set(SERVICES):
        parser.error(f"{', '.join(sorted(unknown))}: choose from {', '.join(SERVICES)}")
    if not engine_answers():
        parser.error("no Docker engine answers: docker info says more")
    if subprocess.run(["docker", "image", "inspect", BASE], capture_output=True).returncode:
        docker("pull", "--quiet", BASE, timeout=1800)
    print(told([measure(service) for service in options.services or SERVICES]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
