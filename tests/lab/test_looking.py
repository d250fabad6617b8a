"""Commands that only look, on a folder where no lab is up: nothing goes on for it, and nothing is changed."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path
from typing import Any

import pytest
from lab.commands import run_app
from lab.exits import Exit
from lab.native import Folders, native
from lab.place import Place, reach
from roundtable.experiment import Experiment
from roundtable.messages import CreateRun


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
    assert run_app(["runs", "--runs-dir", str(runs)]) == Exit.BAD_INPUT
    told = capsys.readouterr().err
    assert "Read-only file system: copy it to where it can be written to" in told and told.count("\n") == 1
