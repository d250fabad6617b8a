"""How much memory the lab takes: the aggregator's while it folds, a worker's over a long run.

The aggregator: anonymous resident memory (RssAnon of /proc), sampled every 10 ms by a thread of this process
while 20 updates of 100 MB come in and are folded, over several rounds; what its files take in the page cache
is the kernel's to give back and is not counted. The limit: 150 MB and one and a half models.

A worker: resident memory (RssAnon + RssFile + RssShmem) after each of 100 rounds of real training, TensorFlow
included; the growth is from the median of rounds 6–15, when everything is traced and cached, to that of the
last ten.
"""

from __future__ import annotations

import statistics
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lab.native import Folders, native, plain_nodes
from roundtable.errors import RunFailed
from roundtable.experiment import parse
from roundtable.messages import CreateRun

from tests.benchmarks import stand_in
from tests.benchmarks.coordination import FLOAT_BYTES, carried_out, check, final_weights, lab_of_stand_ins
from tests.benchmarks.results import Figure

_ROOT = Path(__file__).parents[2]
MB = 1e6


def resident(pid: int, *kinds: str) -> float:
    """MB of these kinds: Anon, File, Shmem."""
    wanted = {f"Rss{kind}:" for kind in kinds}
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.split()[0] in wanted) / MB


@contextmanager
def sampled(what: Callable[[], float], every: float = 0.01) -> Iterator[list[float]]:
    samples: list[float] = [what()]
    over = threading.Event()

    def sample() -> None:
        while not over.wait(every):
            samples.append(what())

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield samples
    finally:
        over.set()
        thread.join()


def aggregator(size_mb: float = 100.0, updates: int = 20, rounds: int = 3) -> Figure:
    """The aggregator's peak in MB while it folds; the reference is what is allowed."""
    elements = round(size_mb * MB / FLOAT_BYTES)
    experiment = parse(
        {
            "name": "memory",
            "task": "stand-in",
            "task_options": {"elements": elements},
            "clients": {"count": updates},
            "rounds": {"count": rounds},
            "evaluation": {"every": rounds, "shards": 1},
        }
    )
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, lab_of_stand_ins(Path(folder), 2) as lab:
        pid = lab.aggregator.process.pid
        with sampled(lambda: resident(pid, "Anon")) as samples:
            run = carried_out(lab, experiment)
        check(final_weights(lab, run, stand_in.manifest(elements)), rounds, "memory")
    allowed = 150 + 1.5 * size_mb
    peak = max(samples)
    return Figure(
        "memory: aggregator, RssAnon",
        size_mb,
        peak,
        allowed,
        peak / allowed,
        {"ours": [peak], "reference": [allowed]},
        target="≤ 150 MB + 1.5 models",
        met=peak <= allowed,
        unit="MB",
        notes={"updates": updates, "rounds": rounds, "idle_mb": samples[0], "samples": len(samples)},
    )


def worker(rounds: int = 100) -> Figure:
    """A worker's resident memory in MB at the end of a run, against that at its beginning."""
    experiment = parse(
        {
            "name": "growth",
            "task": "mnist",
            "clients": {"count": 4},
            "partition": {"kind": "fixed", "size": 400},
            "rounds": {"count": rounds},
            "evaluation": {"every": 5},
        }
    )
    after: dict[int, float] = {}
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        folders = Folders(runs=Path(folder), tasks=_ROOT / "tasks", datasets=_ROOT / "datasets")
        with native(folders) as lab:
            lab.start_workers(plain_nodes(1))
            pid = lab.workers[0].process.pid
            api = lab.api()
            run = api.create(CreateRun(experiment=experiment))[0].id
            over = threading.Event()
            for event in api.watch(run, patience=60.0, closing=over):
                if event.round is not None:
                    after.setdefault(event.round.round, resident(pid, "Anon", "File", "Shmem"))
            state = api.run(run).state
    if state != "finished":
        raise RunFailed(f"run {run}: {state}")
    samples = [after[number] for number in sorted(after)]
    early, late = statistics.median(samples[6:16]), statistics.median(samples[-10:])
    return Figure(
        "memory: worker, growth",
        None,
        late,
        early,
        late / early,
        {"ours": samples},
        target=f"≤ 1.02× over {rounds} rounds",
        met=late / early <= 1.02,
        unit="MB",
    )
