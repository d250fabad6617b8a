"""Commands that only look, on a folder where no lab is up: nothing goes on for it, and nothing is changed."""

from __future__ import annotations

import errno
import os
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from lab.commands import run_app
from lab.exits import Exit
from lab.native import Folders, native
from lab.place import Place, reach
from lab.progress import Progress
from roundtable.experiment import Experiment
from roundtable.messages import CreateRun, RunDetail, WorkerView


@pytest.fixture
def runs(experiment: Experiment, tmp_path: Path) -> Path:
    """Of a lab that is gone, and left a run that soon tires of waiting."""
    impatient = experiment.rounds.model_copy(update={"wait_for_workers": 0.05})
    request = CreateRun(experiment=experiment.model_copy(update={"rounds": impatient}), start_workers=1)
    with native(Folders(tmp_path / "runs")) as lab, lab.api() as api:
        assert api.create(request)[0].state == "waiting"
    return tmp_path / "runs"


def test_a_lab_that_is_started_to_be_asked_begins_no_run(runs: Path) -> None:
    with reach(Place(Folders(runs))) as (api, live):
        time.sleep(0.5)
        (run,) = api.runs()
    assert (live, run.state) == (False, "waiting")


def test_runs_that_cannot_be_written_to_are_to_be_copied(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    work = Path.open

    def read_only(path: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if mode != "r":
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return work(path, mode, *arguments, **options)

    monkeypatch.setattr(Path, "open", read_only)
    for words in ("runs", "status"):
        assert run_app([words, "--runs-dir", str(runs)]) == Exit.BAD_INPUT
        told = capsys.readouterr().err
        assert (
            "Read-only file system: copy it to where it can be written to" in told and told.count("\n") == 1
        )


class Lab:
    """As far as `lab resume` asks it."""

    def __init__(self, detail: RunDetail, present: tuple[WorkerView, ...] = ()) -> None:
        self.detail, self.present, self.resumed = detail, present, False

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, *_: object) -> None: ...

    def runs(self) -> list[RunDetail]:
        return [self.detail]

    def run(self, run: str) -> RunDetail:
        assert run == self.detail.id
        return self.detail

    def workers(self) -> tuple[WorkerView, ...]:
        return self.present

    def resume(self, run: str) -> None:
        assert run == self.detail.id
        self.resumed = True


@pytest.mark.parametrize(("state", "manned"), [("paused", True), ("paused", False), ("running", True)])
def test_a_paused_run_is_resumed_from_another_terminal(
    detail: RunDetail,
    workers: tuple[WorkerView, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    state: str,
    manned: bool,
) -> None:
    lab = Lab(detail.model_copy(update={"state": state}), workers if manned else ())
    woken = state == "paused" and manned  # without workers a lab is up to be asked alone
    monkeypatch.setattr("lab.session.attached", lambda _: lab)
    code = run_app(["resume", detail.id, "--runs-dir", "elsewhere"])
    told = capsys.readouterr()
    assert (code, lab.resumed) == ((Exit.DONE, True) if woken else (Exit.BAD_INPUT, False))
    if woken:
        assert f"run {detail.id} goes on in the terminal" in told.out
    else:
        assert "lab status --runs-dir elsewhere` shows it" in told.err


def test_a_finished_run_without_results_is_to_be_reported_and_not_trained_anew(
    detail: RunDetail, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("lab.session.reach", lambda _: nullcontext((Lab(detail), True)))
    assert detail.state == "finished"
    assert run_app(["resume", detail.id, "--runs-dir", str(tmp_path)]) == Exit.BAD_INPUT
    told = capsys.readouterr().err
    assert f"lab report {detail.id} --runs-dir {tmp_path}` writes its results" in told


def test_how_a_paused_run_is_resumed_is_told_with_this_command_s_options(detail: RunDetail) -> None:
    paused = {"state": "paused", "reason": f"no space left (`lab resume {detail.id}`)"}
    progress = Progress(detail.experiment, options=" --runs-dir r", run=detail.model_copy(update=paused))
    assert progress.waiting_for() == f"paused: no space left (`lab resume {detail.id} --runs-dir r`)"
