"""A run that never was, told as the aggregator would tell it: for what needs figures but no processes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from roundtable.experiment import Experiment, parse
from roundtable.messages import RoundRecord, RunDetail, WorkerAccount, WorkerView

Rounds = Callable[[int], RoundRecord]


@pytest.fixture
def experiment() -> Experiment:
    return parse({"name": "small", "task": "digits", "clients": {"count": 4}, "rounds": {"count": 3}})


@pytest.fixture
def a_round() -> Rounds:
    def build(number: int) -> RoundRecord:
        account = WorkerAccount(
            clients=(0, 1),
            cpu_seconds=0.5,
            waiting_seconds=0.1,
            training_seconds=0.4,
            sending_seconds=0.02,
            bytes_in=1000,
            bytes_out=2000,
            peak_memory_bytes=600_000_000,
        )
        return RoundRecord(
            round=number,
            participants=(0, 1, 2, 3),
            accuracy=0.5 + number / 10,
            loss=1.0 / number,
            metrics={"accuracy": 0.5 + number / 10, "loss": 1.0 / number, "top3": 0.9},
            train_loss=0.9 / number,
            num_examples=1437,
            started=1000.0 + number,
            committed=1000.75 + number,
            seconds=0.75,
            phases={"clients": 0.5, "aggregate": 0.25},
            bytes_up=2_000_000 + number,
            bytes_down=1_000_000 + number,
            workers={"w1": account, "w2": account},
            weights_hash=f"{number:064x}",
            entry_hash=f"{number + 100:064x}",
        )

    return build


@pytest.fixture
def detail(experiment: Experiment, a_round: Rounds) -> RunDetail:
    return RunDetail(
        id="20300101-120000-small",
        name="small",
        state="finished",
        round=3,
        rounds=3,
        created=999.0,
        first_order=1001.0,
        ended=1004.0,
        experiment_hash=experiment.digest,
        head="f" * 64,
        experiment=experiment,
        history=tuple(a_round(number) for number in (1, 2, 3)),
        environment={"python": "3.12.1"},
    )


@pytest.fixture
def workers() -> tuple[WorkerView, ...]:
    return tuple(
        WorkerView(
            id=f"w{number}",
            host="desk",
            node=f"worker-{number}",
            arch="x86_64",
            cpus=2,
            accelerator=None,
            state="present",
            doing="training client 1",
            clients=(number - 1, number + 1),
            pinned=False,
            seen_seconds_ago=0.2,
            memory_bytes=600_000_000,
            cpu_seconds=3.0,
        )
        for number in (1, 2)
    )
