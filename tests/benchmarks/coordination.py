"""What a round costs when nothing is trained: a real aggregator and 5 real agents in processes, against the
floor.

Ours does what the floor does and the rest that the lab is for: orders, hashes, checks for shape and NaN,
updates in the spool and in SQLite before they count, a float64 fold, checkpoints, the ledger.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from lab.native import Folders, Native, native
from roundtable.codec import decode
from roundtable.errors import RunFailed
from roundtable.experiment import Experiment, parse
from roundtable.messages import ENDED, CreateRun, RunDetail
from roundtable.types import Float32, RunId
from roundtable.weights import Manifest

from tests.benchmarks import floor, stand_in
from tests.benchmarks.results import Differs, Figure, compare

WORKERS = 5
FLOAT_BYTES = 4


def measure(size_mb: float, rounds: int, warm_up: int, durability: str, at_most: float | None) -> Figure:
    """Seconds a round, of `rounds` after `warm_up`; the floor before and after ours, so that a busy minute is
    seen."""
    elements = round(size_mb * 1e6 / FLOAT_BYTES)
    total = warm_up + rounds
    before = floor.run(elements, total, WORKERS)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        ours, weights = ours_of(elements, total, durability, Path(folder))
    after = floor.run(elements, total, WORKERS)
    for what, found in (("ours", weights), ("the floor", before[1]), ("the floor", after[1])):
        check(found, total, what)
    name = "coordination" if durability == "process" else f"coordination, durability {durability}"
    reference = before[0][warm_up:] + after[0][warm_up:]
    return compare(name, size_mb, ours[warm_up:], reference, at_most=at_most)


def ours_of(elements: int, rounds: int, durability: str, folder: Path) -> tuple[list[float], Float32]:
    """Seconds from each commit to the next, and the final weights."""
    experiment = parse(
        {
            "name": "coordination",
            "task": "stand-in",
            "task_options": {"elements": elements},
            "clients": {"count": WORKERS},
            "rounds": {"count": rounds},
            "evaluation": {"every": rounds, "shards": 1},
            "keep": {"durability": durability},
        }
    )
    with lab_of_stand_ins(folder, WORKERS) as lab:
        run = carried_out(lab, experiment)
        times = [record.committed for record in run.history]  # round 0 is the first weights
        weights = final_weights(lab, run, stand_in.manifest(elements))
    return np.diff(times).tolist(), weights


@contextmanager
def lab_of_stand_ins(folder: Path, workers: int) -> Iterator[Native]:
    with native(Folders(runs=folder)) as lab:
        token = lab.folders.state / "tokens" / "join"
        with stand_in.workers(workers, lab.url, token):
            yield lab


def carried_out(lab: Native, experiment: Experiment, patience: float = 900.0) -> RunDetail:
    """Submit, wait until it has ended, and what came of it. Raises RunFailed."""
    api = lab.api()
    run: RunId = api.create(CreateRun(experiment=experiment))[0].id
    until = time.monotonic() + patience
    # Rarely, and without the history, which grows: asking takes time from what is being measured.
    while (view := next(view for view in api.runs() if view.id == run)).state not in ENDED:
        if time.monotonic() > until:
            raise RunFailed(f"run {run} is still {view.state} after {patience:.0f} s")
        time.sleep(0.5)
    if view.state != "finished":
        raise RunFailed(f"run {run}: {view.state}: {view.reason}")
    return api.run(run)


def final_weights(lab: Native, run: RunDetail, manifest: Manifest) -> Float32:
    target = lab.folders.runs / "final.safetensors"
    lab.api().download(run.id, "latest", target)
    groups = decode(target.read_bytes(), {"weights": manifest}).groups
    return np.concatenate([array.reshape(-1) for array in groups["weights"].arrays])


def check(weights: Float32, rounds: int, what: str) -> None:
    """Every round adds 0.001 to every weight. Raises Differs."""
    expected = rounds * 0.001
    worst = float(np.abs(weights - expected).max())
    if not worst <= 1e-4 * expected:
        raise Differs(f"{what}: a weight is {worst:.3g} away from {expected:g} after {rounds} rounds")
