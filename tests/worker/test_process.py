"""A real worker process: signals, the end of its input, exit codes and last lines."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.worker.scripted import TOKEN, WAIT, Aggregator, order, problem

ROOT = Path(__file__).parents[2]

# The real process, but for TensorFlow: client n trains for n tenths of a second.
PROGRAM = """
import os, sys, threading, types
from tests.worker.scripted import NumpyTrainer

class Trainer(NumpyTrainer):
    def __init__(self, plan, *_folders_node_and_shelf):
        super().__init__(plan)
    def train(self, client, round_number, weights, broadcast, state, stop):
        threading.Event().wait(client / 10)  # as deaf to `stop` as one long epoch
        self.gate.set()
        print("client", client)
        return super().train(client, round_number, weights, broadcast, state, stop)

sys.modules["worker.trainer"] = types.SimpleNamespace(Trainer=Trainer)
import worker.__main__ as process
process.accelerator = lambda: None
os._exit(process.main(sys.argv[1:]))
"""

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def process(aggregator: Aggregator, tmp_path: Path) -> Iterator[Start]:
    token = tmp_path / "join"
    token.write_text(TOKEN + "\n")
    started: list[subprocess.Popen[str]] = []

    def start(*options: str, token_file: Path = token) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", PROGRAM, "--aggregator-url", aggregator.url]
        command += ["--join-token-file", str(token_file), *options]
        started.append(
            subprocess.Popen(
                command,
                cwd=ROOT,
                env=os.environ | {"PYTHONPATH": str(ROOT)},
                stdin=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return started[-1]

    yield start
    for child in started:
        child.kill()
        child.wait(WAIT)
        for pipe in (child.stdin, child.stderr):
            if pipe is not None:
                pipe.close()


def trains(aggregator: Aggregator, *orders: str) -> None:
    """Until the worker says that it holds these and has begun with the first."""
    aggregator.wait_for(
        lambda: aggregator.holding == orders and aggregator.polls[-1].doing.startswith("training"),
        "an order to be begun",
    )


def end_of(child: subprocess.Popen[str]) -> tuple[int, list[str]]:
    """Exit code and the lines of its log."""
    assert child.stderr is not None
    lines = child.stderr.read().splitlines()
    return child.wait(WAIT), lines


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_a_short_training_end_and_hands_the_rest_back(
    process: Start, aggregator: Aggregator, number: signal.Signals
) -> None:
    child = process()
    digest = aggregator.publish(1.0)
    aggregator.give(order(10, weights=digest), order(11, weights=digest))
    trains(aggregator, "o10", "o11")
    asked = time.monotonic()
    child.send_signal(number)
    code, lines = end_of(child)
    assert code == 0 and time.monotonic() - asked < 5
    assert aggregator.arrived == ["o10"] and aggregator.left == 1
    assert '"accelerator": ' in lines[0]
    assert ['"event": "joined"' in lines[0], '"event": "leaving"' in lines[-1]] == [True, True]
    assert "client 10" in lines  # what a task prints


def test_a_signal_does_not_wait_for_a_long_training(process: Start, aggregator: Aggregator) -> None:
    child = process("--leave-seconds", "0.5")
    aggregator.give(order(300, weights=aggregator.publish(1.0)))
    trains(aggregator, "o300")
    asked = time.monotonic()
    child.terminate()
    code, _ = end_of(child)
    assert code == 0 and time.monotonic() - asked < 3
    assert aggregator.left == 1 and not aggregator.updates


def test_a_second_signal_ends_it_at_once(process: Start, aggregator: Aggregator) -> None:
    child = process()
    aggregator.give(order(300, weights=aggregator.publish(1.0)))
    trains(aggregator, "o300")
    child.terminate()
    assert child.stderr is not None
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(0.3)
    child.terminate()
    assert child.wait(1.0) == 128 + signal.SIGTERM


def test_the_end_of_its_input_is_a_signal_too(process: Start, aggregator: Aggregator) -> None:
    child = process("--exit-on-eof")
    aggregator.wait_for(lambda: bool(aggregator.polls), "a poll")
    assert child.stdin is not None
    child.stdin.close()
    code, _ = end_of(child)
    assert code == 0 and aggregator.left == 1


def test_a_signal_ends_a_worker_that_never_found_its_aggregator(
    process: Start, aggregator: Aggregator
) -> None:
    aggregator.stop()
    child = process()
    assert child.stderr is not None
    assert "waiting for the aggregator" in child.stderr.readline()
    child.terminate()
    code, lines = end_of(child)
    assert code == 0 and len(lines) == 1 and "leaving" in lines[0]  # and no line for each try


def test_a_wrong_token_is_one_line_and_exit_code_2(process: Start, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("another-token-altogether")
    code, lines = end_of(process(token_file=wrong))
    assert code == 2 and len(lines) == 1
    assert lines[0].startswith("worker: JOIN_TOKEN_FILE: ")


def test_another_protocol_version_is_one_line_and_exit_code_2(process: Start, aggregator: Aggregator) -> None:
    told = "the worker speaks protocol version 1, this aggregator version 7: update the worker"
    refusal = problem(426, "incompatible-version", told)
    aggregator.meddle = lambda _method, path: refusal if path == "/v1/join" else None
    code, lines = end_of(process())
    assert code == 2
    assert lines == [f"worker: {told}"]


def test_a_poll_that_is_refused_for_good_is_told_here_and_there(
    process: Start, aggregator: Aggregator
) -> None:
    refusal = problem(413, "too-large", "JSON bodies are at most 7 bytes")
    aggregator.meddle = lambda _method, path: refusal if path == "/v1/poll" else None
    code, lines = end_of(process())
    assert (code, lines[-1], aggregator.left) == (2, "worker: JSON bodies are at most 7 bytes", 1)


def test_a_bad_setting_is_one_line_and_exit_code_2(process: Start, tmp_path: Path) -> None:
    code, lines = end_of(process(token_file=tmp_path / "nowhere"))
    assert code == 2 and len(lines) == 1 and "nowhere is not there" in lines[0]


def test_a_node_s_own_data_is_counted_at_join(process: Start, aggregator: Aggregator, tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=np.zeros((3, 64), np.uint8), y=np.array([0, 7, 7]))
    process("--data-dir", str(tmp_path), "--node-name", "pi-3")
    aggregator.wait_for(lambda: bool(aggregator.joins), "the join")
    join = aggregator.joins[0]
    assert join.node == "pi-3" and join.pinned is not None
    assert (join.pinned.examples, join.pinned.labels) == (3, {"0": 1, "7": 2})


def test_the_file_for_health_checks_is_touched_only_by_polls_that_are_answered(
    process: Start, aggregator: Aggregator, tmp_path: Path
) -> None:
    file = tmp_path / "answered"
    aggregator.meddle = lambda _method, path: (503, b"") if path == "/v1/poll" else None
    process("--answered-file", str(file))
    with aggregator.changed:
        assert aggregator.changed.wait_for(lambda: aggregator.requests.count("POST /v1/poll") >= 3, 30), (
            aggregator.requests
        )
    assert not file.exists()
    aggregator.meddle = lambda _method, _path: None
    with aggregator.changed:
        assert aggregator.changed.wait_for(lambda: len(aggregator.polls) >= 3, 30)
    assert file.exists()
