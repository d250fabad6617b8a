"""What is written down of a run that a lab elsewhere carries out: its own figures, the last ones."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import httpx
import numpy as np
import pytest
from lab import report, results
from lab.api import Api
from lab.commands import run_app
from lab.place import Place
from lab.results import Result
from roundtable.experiment import parse
from roundtable.messages import RoundRecord, RunDetail, RunView, WorkerView
from roundtable.tasks import find

MINE = """
import numpy as np
from roundtable.tasks import Data, Task

class Mine(Task):
    def model(self): ...
    def loss(self): ...
    def load(self, data_dir):
        y = np.load(data_dir / "mine.npz")["y"]
        return Data(np.zeros((len(y), 2), np.uint8), y, np.zeros((4, 2), np.uint8), np.arange(4))
"""


@dataclass
class Elsewhere:
    """An aggregator that knows one run; `lab --url http://elsewhere` asks it."""

    detail: RunDetail
    rounds: tuple[RoundRecord, ...]
    workers: tuple[WorkerView, ...]
    runs: Path
    ledger: dict[str, str]  # what its entries say of task and data

    def reach(self, state: str, rounds: int) -> None:
        """What has become of the run."""
        told = {"state": state, "round": rounds, "head": f"{rounds:064x}"}
        self.detail = self.detail.model_copy(update=told | {"history": self.rounds[:rounds]})

    def answer(self, request: httpx.Request) -> httpx.Response:
        view = RunView(**{name: getattr(self.detail, name) for name in RunView.model_fields})
        bodies = {
            ("GET", "/v1/runs"): [view.model_dump(mode="json")],
            ("POST", "/v1/runs"): view.model_dump(mode="json"),
            ("GET", f"/v1/runs/{view.id}"): self.detail.model_dump(mode="json"),
            ("GET", f"/v1/runs/{view.id}/ledger"): [self.ledger],
            ("GET", "/v1/workers"): [worker.model_dump(mode="json") for worker in self.workers],
        }
        return httpx.Response(200, json=bodies[request.method, request.url.path])

    def lab(self, *arguments: str) -> Result:
        """The results after this command."""
        folders = (self.runs, self.runs.parent / "tasks", self.runs.parent)
        options = zip(("--runs-dir", "--tasks-dir", "--datasets-dir"), map(str, folders), strict=True)
        assert run_app([*arguments, "--url", "http://elsewhere", *chain(*options)]) == 0
        return results.read(self.runs / self.detail.id)


@pytest.fixture
def elsewhere(
    detail: RunDetail, workers: tuple[WorkerView, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Elsewhere:
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks/mine.py").write_text(MINE)
    np.savez(tmp_path / "mine.npz", y=np.arange(40) % 4)
    found = find("mine:Mine", {}, tmp_path / "tasks")
    ledger = {"task_hash": found.hash, "data_hash": found.task.load(tmp_path).digest}
    experiment = parse({"name": "small", "task": "mine:Mine", "clients": {"count": 4}})
    there = Elsewhere(
        detail.model_copy(update={"experiment": experiment}),
        detail.history,
        workers,
        tmp_path / "runs",
        ledger,
    )
    monkeypatch.setattr(
        Place, "remote", lambda _: Api("http://elsewhere", transport=httpx.MockTransport(there.answer))
    )
    monkeypatch.setattr(report, "html", lambda result, **_: f"<title>{result.state}</title>")  # a second each
    return there


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """An experiment for `lab run`; which one is for the lab elsewhere to say."""
    path = tmp_path / "small.toml"
    path.write_text('name = "small"\ntask = "digits"\n')
    return path


def test_a_report_of_what_goes_on_does_not_outlive_it(
    elsewhere: Elsewhere, detail: RunDetail, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere.reach("running", 1)
    assert elsewhere.lab("report", detail.id).final.rounds == 1
    assert f"{detail.id} has not ended: this is it up to round 1\n" in capsys.readouterr().out
    elsewhere.reach("finished", 3)
    told = elsewhere.lab("run", str(file))
    assert (told.state, told.final.rounds) == ("finished", 3)
    assert "80.00 % test accuracy after 3 rounds" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["report", "run"])
def test_figures_of_a_run_that_was_stopped_are_told_until_it_goes_on(
    elsewhere: Elsewhere, detail: RunDetail, file: Path, command: str
) -> None:
    elsewhere.reach("stopped", 2)
    elsewhere.lab("report", detail.id)
    path = elsewhere.runs / detail.id / "result.json"
    body = json.loads(path.read_text())
    path.write_text(json.dumps(body | {"command": "as it was"}))
    assert elsewhere.lab("report", detail.id).command == "as it was"
    elsewhere.reach("finished", 3)
    told = elsewhere.lab(command, detail.id if command == "report" else str(file))
    assert (told.state, told.final.rounds) == ("finished", 3)
    elsewhere.reach("finished", 2)  # a finished run never goes on: another past has been put in its place
    assert elsewhere.lab("report", detail.id) == told


@pytest.mark.parametrize("command", ["report", "run"])
def test_only_the_runs_own_task_and_data_tell_who_has_which_data(
    elsewhere: Elsewhere, detail: RunDetail, file: Path, command: str
) -> None:
    here = elsewhere.ledger
    for there in ({}, {"data_hash": "0" * 64}, {"task_hash": "0" * 64}):
        elsewhere.ledger = here | there
        told = elsewhere.lab(command, detail.id if command == "report" else str(file))
        assert (told.partition is None) == bool(there)
        (elsewhere.runs / detail.id / "result.json").unlink()
