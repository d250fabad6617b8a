"""Where a round of 50 clients × 840 MNIST images spends its time, against the arithmetic that it is made of.

Ours: the whole lab with 2 workers, an evaluation each round. The floor: the same matrix products in numpy
(float32, BLAS with one thread), 25 clients in each of two processes at once, and nothing else: no loss, no
optimizer, no shuffling. Beside it the worker's traced step, called in two processes with nothing around it.
Processor time says the same on a machine that has other work to do.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from lab.native import Folders, Native, native, plain_nodes
from roundtable.experiment import Experiment
from roundtable.messages import Plan, RoundRecord
from roundtable.types import Float32, Seconds

from tests.benchmarks.coordination import carried_out
from tests.benchmarks.results import Figure, compare
from tests.benchmarks.simulated_round import CLIENTS, EXAMPLES, ROOT, WORKERS, experiment_of

LAYERS = (784, 200, 200, 10)
BATCH = 32
REPEATS = 3  # of a round's arithmetic
_PATIENCE: Seconds = 240.0


def measure(rounds: int, clients: int = CLIENTS) -> Figure:
    """Seconds a round of ours against the matrix products alone; the split is printed and in the notes."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        folders = Folders(runs=Path(folder), tasks=ROOT / "tasks", datasets=ROOT / "datasets")
        with native(folders) as lab:
            lab.start_workers(plain_nodes(WORKERS))
            carried_out(lab, experiment_of(2, every=1, clients=clients))  # traces, page faults
            before = _processor(lab)
            history = carried_out(lab, experiment_of(rounds, every=1, clients=clients)).history
            used = [(now - then) / rounds for now, then in zip(_processor(lab), before, strict=True)]
    share = clients // WORKERS
    products, traced = _together(_products, share), _together(_traced, share)
    records = [record for record in history if record.round > 1]
    ours = np.diff([record.committed for record in history if record.round > 0]).tolist()
    split = _split(records, statistics.median(ours), *used)
    split["processor time of the products alone"] = products["processor"][0]
    split["processor time of the traced step alone"] = traced["processor"][0]
    split["the products alone, by the clock"] = statistics.median(products["seconds"])
    split["the traced step alone, by the clock"] = statistics.median(traced["seconds"])
    for name, seconds in split.items():
        print(f"  {name:<44} {1000 * seconds:8.1f} ms", flush=True)
    notes = {"split_s": split, "clients": clients, "traced_s": traced["seconds"]}
    return compare("floor", None, ours, products["seconds"], at_most=2.0, notes=notes)


def _split(
    records: list[RoundRecord], whole: Seconds, aggregator: Seconds, workers: Seconds
) -> dict[str, Seconds]:
    """Medians of a round. By the clock: the parts of `whole`, one after the other; then processor time."""

    def of(read: Callable[[RoundRecord], float]) -> Seconds:
        return statistics.median(map(read, records))

    clients, closing = of(lambda r: r.phases["clients"]), of(lambda r: r.phases["aggregate"])
    between = statistics.median(after.started - r.committed for r, after in pairwise(records))
    training = of(lambda r: max(w.training_seconds for w in r.workers.values()))
    cpu = of(lambda r: sum(w.cpu_seconds for w in r.workers.values()))
    return {
        "a round, commit to commit": whole,
        "  training, of the busier worker": training,
        "  evaluating, fetching, packing, sending": max(clients - training, 0.0),
        "  folding, recording, commit": closing,
        "  from the commit to the next orders": between,
        "processor time of training": cpu,
        "processor time of the workers else": max(workers - cpu, 0.0),
        "processor time of the aggregator": aggregator,
    }


def _processor(lab: Native) -> tuple[Seconds, Seconds]:
    """Of the aggregator, and of the workers together, since they started."""

    def of(pid: int) -> Seconds:
        times = psutil.Process(pid).cpu_times()
        return float(times.user + times.system)

    return of(lab.aggregator.process.pid), sum(of(worker.process.pid) for worker in lab.workers)


# --- the floors, in processes of their own ------------------------------------------------------------------


def _together(work: Callable[[int, Any, Connection], None], clients: int) -> dict[str, list[Seconds]]:
    """The same work in two processes at once; what the first of them has measured."""
    spawn = multiprocessing.get_context("spawn")
    barrier = spawn.Barrier(WORKERS)
    pipes = [spawn.Pipe(duplex=False) for _ in range(WORKERS)]
    with _one_thread():
        processes = [spawn.Process(target=work, args=(clients, barrier, sender)) for _, sender in pipes]
        for process in processes:
            process.start()
    try:
        for (receiver, _), process in zip(pipes, processes, strict=True):
            if not receiver.poll(_PATIENCE):
                raise RuntimeError(f"{process.name} of the floor said nothing for {_PATIENCE:.0f} s")
        found: dict[str, list[Seconds]] = pipes[0][0].recv()
        return found
    finally:
        for process in processes:
            process.join(10)
            if process.is_alive():
                process.kill()


@contextmanager
def _one_thread() -> Iterator[None]:
    """For processes started here: BLAS reads it when numpy is imported."""
    names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _timed(barrier: Any, work: Callable[[], object]) -> dict[str, list[Seconds]]:
    """`seconds` of each repeat, over when the slower process is; `processor` of all processes, a repeat."""
    seconds, cpu = [], time.process_time()
    for _ in range(REPEATS):
        barrier.wait(_PATIENCE)
        began = time.perf_counter()
        work()
        barrier.wait(_PATIENCE)
        seconds.append(time.perf_counter() - began)
    return {"seconds": seconds, "processor": [WORKERS * (time.process_time() - cpu) / REPEATS]}


def _products(clients: int, barrier: Any, sender: Connection) -> None:
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=pair).astype(np.float32) for pair in pairwise(LAYERS)]
    x = rng.random((EXAMPLES, LAYERS[0]), np.float32)

    def train() -> None:
        for _ in range(clients):
            for at in range(0, EXAMPLES, BATCH):
                _step(x[at : at + BATCH], weights)

    train()
    sender.send(_timed(barrier, train))


def _step(batch: Float32, weights: list[Float32]) -> list[Float32]:
    """The products of a forward and a backward pass over batch [b, 784]: the gradients of no loss at all."""
    inputs = [batch]
    for weight in weights:
        inputs.append(inputs[-1] @ weight)  # [b, layer]
    error, gradients = inputs.pop(), []
    for weight, given in zip(reversed(weights), reversed(inputs), strict=True):
        gradients.append(given.T @ error)  # [layer, next layer]
        if given is not batch:
            error = error @ weight.T  # [b, layer]
    return gradients


def _traced(clients: int, barrier: Any, sender: Connection) -> None:
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    from worker.seeds import generator_states, shuffles
    from worker.trainer import Trainer

    experiment: Experiment = experiment_of(1, every=1, clients=clients * WORKERS)
    trainer = Trainer(
        Plan(run="floor", experiment=experiment), ROOT / "tasks", ROOT / "datasets", None, "floor"
    )
    weights, _ = trainer.initialize()
    arrays, seeds = list(weights.arrays), generator_states(0, 1, 1, 0)
    rows = np.arange(EXAMPLES, dtype=np.int32)
    orders = [rows[shuffles(EXAMPLES, 1, 1, 1, client)] for client in range(clients)]

    def train() -> None:
        for order in orders:
            trainer._training.run(arrays, order, seeds, [], [], lambda: False)

    train()
    sender.send(_timed(barrier, train))
