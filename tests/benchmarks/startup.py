"""From `lab run` to the first train order taken, with the demo's experiment and 5 workers.

The reference is what no lab with TensorFlow in it can do without: importing it once, in one process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from roundtable.errors import RunFailed

from tests.benchmarks.results import Figure, compare

_ROOT = Path(__file__).parents[2]
LIMIT = 20.0  # seconds


def measure(repeats: int, workers: int = 5) -> Figure:
    ours = [_first_order(workers) for _ in range(repeats)]
    reference = [_import_tensorflow() for _ in range(repeats)]
    figure = compare("startup", None, ours, reference, notes={"workers": workers})
    assert figure.ours_s is not None
    return Figure(**{**figure.__dict__, "target": f"≤ {LIMIT:.0f} s", "met": figure.ours_s <= LIMIT})


def _first_order(workers: int) -> float:
    """Seconds to the `first_order` of a run of one round of the demo."""
    demo, _, _ = (_ROOT / "experiments" / "demo.toml").read_text(encoding="utf-8").partition("[rounds]")
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        short = Path(folder) / "startup.toml"
        short.write_text(f"{demo}[rounds]\ncount = 1\n", encoding="utf-8")
        runs = Path(folder) / "runs"
        lab = Path(sys.executable).with_name("lab")
        command = [str(lab), "run", str(short), "--workers", str(workers)]
        started = time.time()
        done = subprocess.run(
            [*command, "--runs-dir", str(runs)], cwd=_ROOT, capture_output=True, text=True, timeout=300
        )
        if done.returncode:
            raise RunFailed(f"lab run ended with {done.returncode}: {done.stderr.strip()[-500:]}")
        result = json.loads((runs / "latest" / "result.json").read_text(encoding="utf-8"))
    first: float = result["rounds"][0]["started"]  # of round 1, its first order given: Unix seconds
    return first - started


def _import_tensorflow() -> float:
    started = time.perf_counter()
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    subprocess.run(
        [sys.executable, "-c", "import tensorflow"], check=True, env=environment, capture_output=True
    )
    return time.perf_counter() - started
