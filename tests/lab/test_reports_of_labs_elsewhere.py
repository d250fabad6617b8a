"""What is written down of a run that a lab elsewhere carries out: its own figures, the last ones."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from lab import report, results
from lab.api import Api
from lab.commands import run_app
from lab.place import Place
from lab.results import Result
from roundtable.messages import RunDetail, RunView, WorkerView


@dataclass
class Elsewhere:
    """An aggregator that knows one run; `lab --url http://elsewhere` asks it."""

    detail: RunDetail
    workers: tuple[WorkerView, ...]
    runs: Path

    def reach(self, state: str, rounds: int) -> None:
        """What has become of the run."""
        told = {"state": state, "round": rounds, "head": f"{rounds:064x}"}
        self.detail = self.detail.model_copy(update=told | {"history": self.detail.history[:rounds]})

    def answer(self, request: httpx.Request) -> httpx.Response:
        view = RunView(**{name: getattr(self.detail, name) for name in RunView.model_fields})
        bodies = {
            ("GET", "/v1/runs"): [view.model_dump(mode="json")],
            ("POST", "/v1/runs"): view.model_dump(mode="json"),
            ("GET", f"/v1/runs/{view.id}"): self.detail.model_dump(mode="json"),
            ("GET", "/v1/workers"): [worker.model_dump(mode="json") for worker in self.workers],
        }
        return httpx.Response(200, json=bodies[request.method, request.url.path])

    def lab(self, *arguments: str) -> Result:
        """The results after this command."""
        assert run_app([*arguments, "--url", "http://elsewhere", "--runs-dir", str(self.runs)]) == 0
        return results.read(self.runs / self.detail.id)


@pytest.fixture
def elsewhere(
    detail: RunDetail, workers: tuple[WorkerView, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Elsewhere:
    there = Elsewhere(detail, workers, tmp_path / "runs")
    monkeypatch.setattr(
        Place, "remote", lambda _: Api("http://elsewhere", transport=httpx.MockTransport(there.answer))
    )
    monkeypatch.setattr(report, "html", lambda result, **_: f"<title>{result.state}</title>")  # a second each
    return there


def test_a_report_of_what_goes_on_does_not_outlive_it(
    elsewhere: Elsewhere, detail: RunDetail, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere.reach("running", 1)
    assert elsewhere.lab("report", detail.id).final.rounds == 1
    assert f"{detail.id} has not ended: this is it up to round 1\n" in capsys.readouterr().out
    elsewhere.detail = detail
    file = tmp_path / "small.toml"
    file.write_text('name = "small"\ntask = "digits"\n')
    told = elsewhere.lab("run", str(file))
    assert (told.state, told.final.rounds) == ("finished", 3)
    assert "80.00 % test accuracy after 3 rounds" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["report", "run"])
def test_figures_of_a_run_that_was_stopped_are_told_until_it_goes_on(
    elsewhere: Elsewhere, detail: RunDetail, tmp_path: Path, command: str
) -> None:
    file = tmp_path / "small.toml"
    file.write_text('name = "small"\ntask = "digits"\n')
    elsewhere.reach("stopped", 2)
    elsewhere.lab("report", detail.id)
    path = elsewhere.runs / detail.id / "result.json"
    body = json.loads(path.read_text())
    path.write_text(json.dumps(body | {"command": "as it was"}))
    assert elsewhere.lab("report", detail.id).command == "as it was"
    elsewhere.detail = detail
    told = elsewhere.lab(command, detail.id if command == "report" else str(file))
    assert (told.state, told.final.rounds) == ("finished", 3)
    elsewhere.reach("finished", 2)  # a finished run never goes on: another past has been put in its place
    assert elsewhere.lab("report", detail.id) == told
