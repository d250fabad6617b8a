"""Messages survive JSON, and requests that are not what they should be are refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError
from roundtable.experiment import Experiment
from roundtable.messages import (
    PROTOCOL,
    WORDS,
    Account,
    CreateRun,
    Evaluated,
    Event,
    Initialized,
    Join,
    Message,
    Order,
    OrderResult,
    PinnedData,
    Plan,
    Poll,
    PollReply,
    Reply,
    RoundRecord,
    RunDetail,
    UpdateReply,
    WorkerAccount,
    WorkerView,
)
from roundtable.weights import ArraySpec, Manifest

DIGEST = "ab" * 32
JOIN: dict[str, Any] = {
    "protocol": PROTOCOL,
    "instance": "0123456789abcdef",
    "host": "pi",
    "node": "pi-3",
    "arch": "aarch64",
    "cpus": 4,
    "memory_bytes": 2**32,
}
EXPERIMENT = Experiment(name="demo", task="mnist")
ARRAYS = (ArraySpec("kernel", (784, 200)), ArraySpec("count", (), "int64", False))

EXAMPLES: list[Message] = [
    Join(**JOIN, pinned=PinnedData(examples=3, labels={"cat": 1, "dog": 2})),
    Order(id="r.1.1.train.c0.1", kind="train", run="r", round=1, client=0, weights=DIGEST, task_hash=DIGEST),
    Plan(run="r", experiment=EXPERIMENT, arrays=ARRAYS, pinned_clients={"pi-3": 0}),
    Plan(run="r", experiment=EXPERIMENT),
    Poll(holding=("a", "b"), doing="training client 3", cpu_seconds=1.5),
    PollReply(give=(Order(id="x", kind="stop", run="r", head=DIGEST),), cancel=("y",)),
    Account(num_examples=600, num_steps=19, loss=0.3, metrics={"accuracy": 0.9}),
    Initialized(
        arrays=ARRAYS,
        task_hash=DIGEST,
        data_hash=DIGEST,
        train_examples=60_000,
        test_examples=10_000,
        metrics=("accuracy",),
    ),
    UpdateReply(duplicate=True),
    OrderResult(status="done", evaluated=Evaluated(num_examples=5, sums={"correct": 4.0, "iou": [1.0, 2.0]})),
    CreateRun(experiment=EXPERIMENT, participants=((0, 1), (2,))),
    Event(seq=1, kind="note", note="waiting for workers"),
    Event(
        seq=2,
        kind="workers",
        workers=(
            WorkerView(
                id="w1",
                host="pi",
                node="pi-3",
                arch="aarch64",
                cpus=4,
                state="left",
                clients=(),
                pinned=False,
                seen_seconds_ago=0.5,
                memory_bytes=0,
                cpu_seconds=0.0,
            ),
        ),
    ),
    RunDetail(
        id="r",
        name="demo",
        state="running",
        rounds=3,
        created=1.0,
        experiment_hash=DIGEST,
        experiment=EXPERIMENT,
        history=(
            RoundRecord(
                round=1,
                workers={
                    "w": WorkerAccount(
                        clients=(0, 1),
                        cpu_seconds=1.0,
                        waiting_seconds=0.1,
                        training_seconds=0.9,
                        sending_seconds=0.0,
                        bytes_in=10,
                        bytes_out=10,
                        peak_memory_bytes=10,
                    )
                },
            ),
        ),
    ),
]


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_a_message_comes_back_from_json_as_it_was(message: Message) -> None:
    assert type(message).model_validate_json(message.model_dump_json()) == message


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_what_is_absent_may_be_left_out(message: Message) -> None:
    """The event stream does so, and so may a worker in another language."""
    assert type(message).model_validate_json(message.model_dump_json(exclude_none=True)) == message


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_requests_refuse_a_field_of_another_time_and_replies_may_grow_one(message: Message) -> None:
    grown = {**message.model_dump(), "unheard_of": 1}
    if isinstance(message, Reply):
        assert type(message).model_validate(grown) == message
    else:
        with pytest.raises(ValidationError, match="unheard_of"):
            type(message).model_validate(grown)


@pytest.mark.parametrize(
    "change",
    [
        {"instance": "not hexadecimal!"},
        {"instance": "ab"},
        {"instance": "a" * 65},
        {"host": ""},
        {"node": "x" * 201},
        {"cpus": 0},
        {"memory_bytes": -1},
        {"protocol": "one"},
        {"pinned": {"examples": 0, "labels": {}}},
        {"pinned": {"examples": 1, "labels": {"cat": -1}}},
    ],
)
def test_a_join_out_of_bounds_is_refused(change: dict[str, Any]) -> None:
    Join.model_validate(JOIN)
    with pytest.raises(ValidationError):
        Join.model_validate({**JOIN, **change})


@pytest.mark.parametrize(
    "change",
    [
        {"num_examples": -1},
        {"num_steps": -1},
        {"loss": float("nan")},
        {"metrics": {"accuracy": float("inf")}},
    ],
)
def test_an_account_out_of_bounds_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Account.model_validate({"num_examples": 1, "num_steps": 1, **change})


def test_sums_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValidationError):
        Evaluated(num_examples=1, sums={"loss": float("nan")})
    with pytest.raises(ValidationError):
        Evaluated(num_examples=1, sums={"iou": [1.0, float("inf")]})


def test_a_plan_gives_the_manifest_once_the_run_has_one() -> None:
    assert Plan(run="r", experiment=EXPERIMENT).manifest is None
    assert Plan(run="r", experiment=EXPERIMENT, arrays=ARRAYS).manifest == Manifest(ARRAYS)


@pytest.mark.parametrize(
    ("found", "line"),
    [
        ("Küche, 厨房 😀", "Küche, 厨房 😀"),
        ("out of memory \ud83d", r"out of memory \ud83d"),
        ("cannot read caf\udce9.png", r"cannot read caf\udce9.png"),
        ("two\n  lines\t", "two lines"),
        ("\x1b[31mred\x00 \u202eder", r"\x1b[31mred\x00 \u202eder"),
        ("x" * 1000, "x" * 1000),
        ("x" * 960_000, "x" * 999 + "…"),
        ("\x1b" * 500, r"\x1b" * 249 + r"\x1" + "…"),
    ],
)
def test_somebody_s_words_are_one_line_that_can_be_sent_stored_and_shown(found: str, line: str) -> None:
    told = {"status": "failed", "detail": found, "evaluated": {"num_examples": 1, "sums": {found: 1.0}}}
    for result in (
        OrderResult(status="failed", detail=found, evaluated=Evaluated(num_examples=1, sums={found: 1.0})),
        OrderResult.model_validate(json.loads(json.dumps(told))),
    ):
        assert result.detail == line and result.evaluated and list(result.evaluated.sums) == [line]
        assert len(line) <= WORDS and OrderResult.model_validate_json(result.model_dump_json()) == result
    assert Poll(doing=found).doing == Join(**JOIN, accelerator=found).accelerator == line
    assert Join(**JOIN, pinned=PinnedData(examples=1, labels={found: 1})).model_dump_json().isprintable()


def test_messages_are_values() -> None:
    with pytest.raises(ValidationError):
        Poll().doing = "something else"  # type: ignore[misc]
