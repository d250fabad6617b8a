"""An agent started against the scripted aggregator, and ended with its test."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

import pytest
from roundtable.messages import Join, Plan
from worker.agent import Agent
from worker.backoff import Backoff
from worker.link import Limits, Link

from tests.worker.scripted import TOKEN, Aggregator, NumpyTrainer


@dataclass
class Lab:
    """One aggregator, one agent, one trainer."""

    aggregator: Aggregator
    trainer: NumpyTrainer
    agent: Agent
    ends: list[BaseException]
    ended: threading.Event


@pytest.fixture
def aggregator() -> Iterator[Aggregator]:
    server = Aggregator()
    yield server
    server.stop()


@pytest.fixture
def start(aggregator: Aggregator) -> Iterator[Callable[..., Lab]]:
    """Start an agent against the scripted aggregator; unless `open`, trainings wait for `trainer.gate`."""
    labs: list[Lab] = []

    def begin(
        *,
        open: bool = True,
        token: str = TOKEN,
        make: Callable[[Plan], Any] | None = None,
        instance: str = "0" * 32,
    ) -> Lab:
        ends: list[BaseException] = []
        ended = threading.Event()
        trainer = NumpyTrainer(Plan(run="r1", experiment=aggregator.experiment))
        if open:
            trainer.gate.set()

        def on_end(error: BaseException) -> None:
            ends.append(error)
            ended.set()

        join = Join(protocol=1, instance=instance, host="h", node="n", arch="x86_64", cpus=1, memory_bytes=1)
        link = Link(
            aggregator.url, lambda: token, limits=Limits(connect=1.0, read=3.0, write=3.0, poll_margin=3.0)
        )
        agent = Agent(
            link,
            join,
            make or (lambda _plan: trainer),
            on_end,
            random=Random(1),
            patience=lambda random: Backoff(random, first=0.01, cap=0.05),
        )
        agent.start()
        labs.append(Lab(aggregator, trainer, agent, ends, ended))
        return labs[-1]

    yield begin
    for lab in labs:
        lab.trainer.gate.set()
        lab.agent.leave(1.0)
