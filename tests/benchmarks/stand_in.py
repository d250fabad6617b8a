"""A worker that trains nothing: the real agent, link and transport around `update = (weights + 0.001) −
weights`.

No TensorFlow: a process is up in a moment, and a round costs what the lab's coordination costs.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import secrets
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from roundtable.messages import PROTOCOL, Evaluated, Initialized, Join, Plan
from roundtable.types import ClientId, Digest, Float32, Metrics, Seconds
from roundtable.weights import ArraySpec, Manifest, Weights
from worker import machine
from worker.agent import Agent
from worker.link import Link
from worker.settings import read_token

STEP = np.float32(0.001)
_BLOCK = 32 * 1024  # elements
_ARRAYS = 8  # a model has several


def manifest(elements: int) -> Manifest:
    """`elements` float32 in a few arrays of unequal sizes, as a model has them."""
    small = max(elements // 100, 1)
    sizes = [small] * (_ARRAYS - 1)
    return Manifest(tuple(ArraySpec("kernel", (size,)) for size in [elements - sum(sizes), *sizes]))


@dataclass(frozen=True)
class Trained:
    update: Weights
    broadcast: Weights | None = None
    state: Weights | None = None
    num_examples: int = 1
    num_steps: int = 1
    loss: float | None = None
    metrics: Metrics = field(default_factory=dict)
    seconds: Seconds = 0.0
    cpu_seconds: Seconds = 0.0


class Trainer:
    """What worker.facade.Trainer asks for. Its updates are made in memory used again, as the floor does."""

    task_hash: Digest = "0" * 64
    data_hash: Digest = "1" * 64

    def __init__(self, plan: Plan) -> None:
        self._first = manifest(int(plan.experiment.task_options["elements"]))
        self._rooms: list[Weights] = []
        self._next = 0

    def initialize(self) -> tuple[Weights, Initialized]:
        initialized = Initialized(
            arrays=self._first.arrays,
            task_hash=self.task_hash,
            data_hash=self.data_hash,
            train_examples=5,
            test_examples=1,
            metrics=("accuracy",),
        )
        return Weights.zeros(self._first), initialized

    def use(self, manifest: Manifest) -> None:
        # One update is being sent while the next is made; the third is for an update given up half-way.
        self._rooms = [Weights.zeros(manifest) for _ in range(3)]

    def train(
        self,
        client: ClientId,  # noqa: ARG002
        round_number: int,  # noqa: ARG002
        weights: Weights,
        broadcast: Weights | None,  # noqa: ARG002
        state: Weights | None,  # noqa: ARG002
        stop: Callable[[], bool],  # noqa: ARG002
    ) -> Trained:
        room = self._rooms[self._next]
        self._next = (self._next + 1) % len(self._rooms)
        for before, update in zip(weights.arrays, room.arrays, strict=True):
            _step(before, update)
        return Trained(room)

    def evaluate(self, weights: Weights, shard: int | None, client: ClientId | None) -> Evaluated:  # noqa: ARG002
        return Evaluated(num_examples=1, sums={"loss": 0.0, "accuracy": 0.0})


def _step(weights: Float32, update: Float32) -> None:
    for first in range(0, weights.size, _BLOCK):
        before, after = weights[first : first + _BLOCK], update[first : first + _BLOCK]
        np.add(before, STEP, out=after)
        after -= before


@contextmanager
def workers(count: int, url: str, token: Path) -> Iterator[list[int]]:
    """So many worker processes at work for the aggregator at `url`; their process ids."""
    spawn = multiprocessing.get_context("spawn")
    processes = [
        spawn.Process(target=_be_a_worker, args=(url, token, n), daemon=True) for n in range(1, count + 1)
    ]
    for process in processes:
        process.start()
    try:
        yield [process.pid for process in processes if process.pid]
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join(5)
            if process.is_alive():
                process.kill()


def _be_a_worker(url: str, token: Path, number: int) -> None:
    over = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: over.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who started this
    logging.getLogger("worker").setLevel(logging.ERROR)  # what ends it is printed below; the rest is figures
    join = Join(
        protocol=PROTOCOL,
        instance=secrets.token_hex(16),
        host=machine.host(),
        node=f"stand-in-{number}",
        arch=machine.arch(),
        cpus=machine.cpus(),
        memory_bytes=machine.memory_bytes(),
    )
    faults: list[BaseException] = []

    def ended(error: BaseException) -> None:
        faults.append(error)
        over.set()

    agent = Agent(Link(url, lambda: read_token(token)), join, Trainer, ended)
    agent.start()
    over.wait()
    if faults:
        print(f"benchmark worker {number}: {faults[0]}", flush=True)
        os._exit(1)
    agent.leave(1.0)
    os._exit(0)
