"""What `lab check` foresees of unequal machines, and what `lab calibrate` makes of a run."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lab import calibrate, forecast, machine
from lab.commands import run_app
from lab.live import round_line, title
from lab.native import Folders
from lab.report import html
from lab.results import Result, Startup, result_of, rounds_csv
from lab.study import ready
from lab.study.apart import apart
from roundtable.errors import InvalidExperiment, InvalidInput, InvalidTask
from roundtable.experiment import Experiment, parse
from roundtable.fleet import Load
from roundtable.messages import RoundRecord, RunDetail, WorkerAccount
from roundtable.weights import ArraySpec, Manifest

SLOW = {"fraction": 0.5, "compute": 0.1, "up_mbit": 1.0, "down_mbit": 2.0, "latency_ms": 500}
LOADS = [Load(1000, 250_000, 250_000) for _ in range(8)]


def experiment(profiles: dict[str, Any], clock: str = "virtual", **rounds: Any) -> Experiment:
    machines = {"clock": clock, "profiles": profiles, "samples_per_second": 1000.0}
    if clock == "real":
        del machines["samples_per_second"]
    return parse(
        {
            "name": "x",
            "task": "digits",
            "clients": {"count": 8},
            "rounds": {"count": 5, **rounds},
            "machines": machines,
        }
    )


def test_each_kind_of_machine_is_told_with_what_a_round_costs_it() -> None:
    found = forecast.of_loads(experiment({"slow": SLOW}), LOADS)
    slow, plain = found.costs
    assert (slow.name, slow.clients, slow.download, slow.upload) == ("slow", 4, 1.5, 2.5)
    assert slow.compute == pytest.approx(10.0)
    assert (plain.name, plain.clients, plain.download, plain.compute, plain.upload) == ("plain", 4, 0, 1.0, 0)
    assert (found.rounds, found.late, found.dropped) == (5, 0, 0)
    assert found.seconds == pytest.approx(5 * 14.0)


def test_a_deadline_cuts_the_slow_ones_and_is_waited_for() -> None:
    found = forecast.of_loads(experiment({"slow": SLOW}, deadline=3.0, quorum=0.5), LOADS)
    assert (found.seconds, found.late) == (15.0, 20)


def test_a_deadline_that_the_fastest_quorum_cannot_keep_is_refused_with_what_it_takes() -> None:
    with pytest.raises(
        InvalidExperiment, match=r"rounds.deadline: found 3, .* the fastest 5 clients take 14 s"
    ):
        forecast.of_loads(experiment({"slow": SLOW}, deadline=3.0, quorum=0.6), LOADS)


def test_without_a_speed_only_what_links_alone_forbid_is_refused() -> None:
    fine = forecast.of_loads(experiment({"slow": SLOW}, "real", deadline=5.0), LOADS)
    assert (fine.rounds, fine.costs[0].compute) == (0, None)
    with pytest.raises(InvalidExperiment, match="the fastest 8 clients take 4 s"):
        forecast.of_loads(experiment({"slow": SLOW}, "real", deadline=3.0), LOADS)


def test_losses_that_no_retry_gets_over_are_refused_with_the_round() -> None:
    lossy = experiment({"lossy": {"drop": 0.9}}, deadline=30.0, quorum=0.75, retries=1)
    with pytest.raises(InvalidExperiment, match=r"round 1 fails: it needs 6 updates, .* in each of 2 trials"):
        forecast.of_loads(lossy, LOADS)


@pytest.mark.usefixtures("one_thread")
def test_lab_check_tells_it_and_refuses_what_is_impossible(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "x.toml"
    text = """
name = "x"
task = "digits"
[clients]
count = 4
[rounds]
deadline = 2.0
[machines]
clock = "virtual"
samples_per_second = 1000
[machines.profiles.slow]
fraction = 0.25
compute = 0.5
"""
    file.write_text(text)
    assert run_app(["check", str(file)]) == 0
    said = capsys.readouterr().out
    assert "virtual clock" in said and "slow profiles" in said
    assert "0.72 s" in said  # 360 examples at 500 a second
    assert "20 rounds take 14.36 s by the virtual clock: 0 updates late, 0 lost" in said
    file.write_text(text.replace("deadline = 2.0", "deadline = 0.5"))
    assert run_app(["check", str(file)]) != 0
    assert "the fastest 4 clients take 0.718 s" in capsys.readouterr().err


def detail(state: str = "finished", rounds: int = 3) -> RunDetail:
    account = WorkerAccount(
        clients=(0,),
        cpu_seconds=2.0,
        waiting_seconds=0,
        training_seconds=3.0,
        sending_seconds=0,
        bytes_in=0,
        bytes_out=0,
        peak_memory_bytes=0,
    )
    history = [
        RoundRecord(
            round=number,
            num_examples=1234,
            workers={"w1": account if number > 1 else account.model_copy(update={"cpu_seconds": 99.0})},
            weights_hash="0" * 64,
            entry_hash="0" * 64,
        )
        for number in range(rounds + 1)
    ]
    return RunDetail(
        id="r",
        name="x",
        state=state,
        reason="no worker came",
        rounds=3,
        created=0,
        experiment_hash="0" * 64,
        experiment=parse({"name": "x", "task": "digits", "training": {"epochs": 2}}),
        history=tuple(history),
    )


def test_the_speed_is_samples_over_cpu_seconds_without_the_first_round() -> None:
    assert calibrate.measured(detail()) == 1230  # 2 · 1234 / 2, three figures


def test_a_run_that_came_to_nothing_measures_nothing() -> None:
    with pytest.raises(InvalidInput, match="failed: no worker came"):
        calibrate.measured(detail("failed", 1))


def test_what_is_measured_is_the_training_on_plain_machines_and_nothing_else() -> None:
    body = experiment({"slow": SLOW}, deadline=60.0, quorum=0.5)
    short = calibrate.short(body)
    assert short.machines.profiles == {} and short.machines.clock == "real"
    assert (short.cohort_size, short.rounds.count, short.rounds.deadline) == (4, 4, None)
    assert (short.training, short.partition, short.clients.count) == (body.training, body.partition, 8)


def result(clock: str) -> Result:
    told = detail()
    virtual = {"virtual_seconds": 12.5, "seconds": 0.5} if clock == "virtual" else {"seconds": 0.5}
    history = tuple(
        record.model_copy(update={"late": 2, "dropped": 1, "participants": (0, 1, 2), **virtual})
        for record in told.history
    )
    body = experiment({"slow": SLOW}, clock)
    return result_of(
        told.model_copy(update={"history": history, "experiment": body}),
        environment=machine.here(),
        startup=Startup(),
        workers=(),
        partition=None,
        command="again",
    )


def test_results_say_which_clock_and_what_it_came_to() -> None:
    virtual = result("virtual")
    assert (virtual.clock, virtual.final.virtual_seconds) == ("virtual", 37.5)
    assert (virtual.final.late, virtual.final.dropped) == (6, 3)
    real = result("real")
    assert (real.clock, real.final.virtual_seconds) == ("real", None)
    header, first, *_ = rounds_csv(virtual.rounds).splitlines()
    row = dict(zip(header.split(","), first.split(","), strict=True))
    assert (row["late"], row["dropped"], row["virtual_seconds"]) == ("2", "1", "12.5")


def test_the_terminal_and_the_report_call_virtual_seconds_virtual() -> None:
    virtual, real = result("virtual"), result("real")
    assert "3 in, 2 late, 1 dropped" in round_line(real.rounds[0])
    assert round_line(virtual.rounds[0]).endswith("12.5 virtual s")
    assert title(virtual.experiment).endswith("slow profiles · virtual clock")
    page = html(virtual)
    assert "Unequal machines: virtual clock" in page and "all other seconds on this page are real" in page
    assert "6 updates came too late to count, 3 got lost" in page
    page = html(real)
    assert "Unequal machines: real clock" in page and "virtual" not in page.split("Do it again")[0]


def test_clients_that_are_never_on_together_are_foreseen() -> None:
    flaky = experiment({"flaky": {"availability": 0.01}})
    with pytest.raises(InvalidExperiment, match="round 1 needs 8 clients that are on"):
        forecast.of_loads(flaky, LOADS)


def test_what_speeds_alone_make_impossible_is_found_without_the_model() -> None:
    cut = experiment({"slow": SLOW}, deadline=3.0, quorum=0.6)
    with pytest.raises(InvalidExperiment, match="the fastest 5 clients take 11 s"):
        forecast.refuse_impossible(cut, [1000] * 8, _not_needed)
    waited_for = experiment({"slow": SLOW})
    forecast.refuse_impossible(waited_for, [1000] * 8, _not_needed)
    forecast.refuse_impossible(parse({"name": "x", "task": "digits"}), [1] * 10, _not_needed)


def test_where_a_deadline_makes_links_matter_the_model_is_weighed() -> None:
    cut = experiment({"slow": SLOW}, deadline=3.0, quorum=0.6)
    light = Manifest((ArraySpec("weights", (1_000,), "float32", True),))
    forecast.refuse_impossible(cut, [100] * 8, lambda: light)
    heavy = Manifest((ArraySpec("weights", (250_000,), "float32", True),))
    with pytest.raises(InvalidExperiment, match="the fastest 5 clients take 14 s"):
        forecast.refuse_impossible(cut, [100] * 8, lambda: heavy)


def _not_needed() -> Manifest:
    raise AssertionError("building a model takes seconds")


VAIN = """
name = "vain"
title = "Vain"
question = "Can it be?"
outcomes = ["accuracy"]
repeats = 3
[experiment]
task = "digits"
[experiment.clients]
count = 4
[experiment.rounds]
count = 2
{deadline}
[experiment.machines]
{clock}
[experiment.machines.profiles.slow]
{profile}
"""
VIRTUAL = 'clock = "virtual"\nsamples_per_second = 1000'


def _checked(file: Path, clock: str, profile: str) -> int:
    file.write_text(VAIN.format(deadline="deadline = 5.0", clock=clock, profile=profile))
    return run_app(["study", "check", str(file)])


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("clock", [VIRTUAL, 'clock = "real"'])
def test_a_study_weighs_the_model_once_as_lab_check_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, clock: str
) -> None:
    built = []

    def here(function: Callable[..., Any], *arguments: Any) -> Any:
        built.append(function)
        return function(*arguments)

    monkeypatch.setattr(ready, "apart", here)
    assert _checked(tmp_path / "vain.toml", clock, "up_mbit = 0.01") != 0
    (said,) = capsys.readouterr().err.splitlines()
    assert (
        "vain: cell one, seed 1: rounds.deadline: found 5," in said and "the fastest 4 clients take" in said
    )
    built.clear()
    assert _checked(tmp_path / "vain.toml", clock, "up_mbit = 10") == 0
    assert built == [forecast.weighed]


def test_what_needs_tensorflow_is_found_out_in_a_process_of_its_own(tmp_path: Path) -> None:
    folders, interrupted = Folders(tmp_path), signal.getsignal(signal.SIGINT)
    found = apart(_process, experiment({}), folders)
    assert found == ("x", folders, found[2], True) and found[2] != os.getpid()
    assert signal.getsignal(signal.SIGINT) is interrupted


def test_an_error_there_is_raised_here_and_a_process_that_dies_is_one() -> None:
    with pytest.raises(InvalidTask, match=r"^x: no such model$"):
        apart(_refusing, experiment({}), Folders(Path()))
    with pytest.raises(InvalidTask, match=r"^task digits: the process that builds its model ended with 7: "):
        apart(_dying, experiment({}), Folders(Path()))


def _refusing(experiment: Experiment, folders: Folders) -> None:  # noqa: ARG001
    raise InvalidTask(f"{experiment.name}: no such model")


def _dying(experiment: Experiment, folders: Folders) -> None:  # noqa: ARG001
    os._exit(7)


def _process(experiment: Experiment, folders: Folders) -> tuple[str, Folders, int, bool]:
    return experiment.name, folders, os.getpid(), signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_a_study_with_a_profile_that_makes_a_round_impossible_is_refused_before_it_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "vain.toml"
    factor = '[[factors]]\nname = "deadline"\nfield = "rounds.deadline"\nlevels = [0.5, 5.0]\n'
    file.write_text(VAIN.format(deadline="", clock=VIRTUAL, profile="compute = 0.5") + factor)
    assert run_app(["study", "check", str(file)]) != 0
    said = capsys.readouterr().err
    assert "deadline-0p5" in said and "rounds.deadline: found 0.5" in said
    assert "the fastest 4 clients take 0.72 s" in said
    assert "Traceback" not in said
