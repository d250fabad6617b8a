"""What a run leaves behind: complete, documented, and the same figures everywhere."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import httpx
import pytest
from lab import machine, report, results
from lab.commands import run_app
from lab.native import Folders, native
from lab.results import Result, Spread, Startup
from roundtable import experiment as experiments
from roundtable.errors import InvalidInput, InvalidSetting
from roundtable.experiment import Experiment
from roundtable.messages import CreateRun, RunDetail, WorkerView

SPREAD = Spread(labels=("0", "1"), counts=((10, 20), (30, 0), (5, 5), (0, 40)))


@pytest.fixture
def result(detail: RunDetail, workers: tuple[WorkerView, ...]) -> Result:
    return results.result_of(
        detail,
        environment=machine.here(),
        startup=Startup(aggregator=0.5, first_worker=4.0, first_order=5.25),
        workers=workers,
        partition=SPREAD,
        command=".venv/bin/lab run runs/x/experiment.toml --workers 2 --again",
    )


def no_page(result: Result) -> str:
    """For tests of the folder: drawing a report takes a second."""
    return f"<title>{result.name}</title>"


def test_final_figures_are_those_of_the_rounds(result: Result, detail: RunDetail) -> None:
    final = result.final
    assert (final.rounds, final.accuracy, final.best_round) == (3, pytest.approx(0.8), 3)
    assert final.seconds == pytest.approx(detail.history[-1].committed - 1001.0)
    assert final.round_seconds == pytest.approx(2.25)
    assert final.bytes_up == 6_000_006
    assert final.weights_hash == detail.history[-1].weights_hash


def test_a_clock_that_was_set_back_makes_no_run_shorter_than_its_rounds(detail: RunDetail) -> None:
    first = detail.model_copy(update={"first_order": 9000.0})
    result = results.result_of(
        first, environment=machine.here(), startup=Startup(), workers=(), partition=None, command="x"
    )
    assert result.final.seconds == result.final.round_seconds == pytest.approx(2.25)


def test_a_run_without_a_committed_round_has_no_result(detail: RunDetail) -> None:
    empty = detail.model_copy(update={"history": (), "state": "failed", "reason": "no worker came"})
    with pytest.raises(InvalidInput, match="no worker came"):
        results.result_of(
            empty, environment=machine.here(), startup=Startup(), workers=(), partition=None, command="x"
        )


def test_the_folder_holds_what_was_run_and_latest_points_to_it(result: Result, tmp_path: Path) -> None:
    folder = results.write(tmp_path, result, no_page)
    assert folder == tmp_path / result.run
    assert experiments.load(folder / "experiment.toml") == result.experiment
    assert results.read(folder) == result
    assert (tmp_path / "latest").resolve() == folder.resolve()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_rounds_csv_has_a_line_a_round_with_phases_and_metrics(result: Result, tmp_path: Path) -> None:
    folder = results.write(tmp_path, result, report.html)
    rows = list(csv.DictReader((folder / "rounds.csv").open()))
    assert [int(row["round"]) for row in rows] == [1, 2, 3]
    assert float(rows[1]["accuracy"]) == pytest.approx(0.7)
    assert (rows[0]["seconds_clients"], rows[0]["seconds_aggregate"], rows[0]["top3"]) == (
        "0.5",
        "0.25",
        "0.9",
    )


def test_a_metric_of_a_column_s_name_has_a_column_of_its_own(result: Result) -> None:
    rounds = tuple(record.model_copy(update={"metrics": {"clients": 0.25}}) for record in result.rounds)
    rows = list(csv.DictReader(io.StringIO(results.rounds_csv(rounds))))
    assert [row["metric_clients"] for row in rows] == ["0.25"] * 3
    assert [row["clients"] for row in rows] == [str(len(record.participants)) for record in rounds]


def test_nothing_half_written_when_the_report_fails(result: Result, tmp_path: Path) -> None:
    def broken(_: Result) -> str:
        raise OSError(28, "No space left on device")

    with pytest.raises(InvalidInput, match="No space left on device"):
        results.write(tmp_path, result, broken)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("cut", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_what_was_there_stays_where_writing_again_is_cut_off(
    result: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: BaseException
) -> None:
    folder = results.write(tmp_path, result, no_page)
    real = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if target == folder and not self.name.endswith(".old"):
            raise cut
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises((KeyboardInterrupt, InvalidSetting)):
        results.write(tmp_path, result.model_copy(update={"name": "another"}), no_page)
    assert results.read(folder) == result
    assert {path.name for path in tmp_path.iterdir()} == {result.run, "latest"}


def test_writing_again_keeps_the_logs(result: Result, tmp_path: Path) -> None:
    results.write(tmp_path / "runs", result, no_page, {"worker-1.log": b"hello\n"})
    folder = results.write(tmp_path / "runs", result, no_page)
    assert (folder / "logs" / "worker-1.log").read_text() == "hello\n"


def test_a_folder_where_latest_should_point_is_told_and_the_results_are_there(
    result: Result, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "latest/mine").mkdir(parents=True)
    assert results.write(tmp_path, result, no_page) == tmp_path / result.run
    told = capsys.readouterr().err
    assert told.startswith(f"lab: {tmp_path / 'latest'}: cannot be made to point to {result.run}")
    assert told.endswith(f"remove it; the results are in {tmp_path / result.run}/\n")
    assert {path.name for path in tmp_path.iterdir()} == {"latest", result.run}
    assert results.read(tmp_path / result.run) == result


def test_a_result_that_cannot_be_read_or_written_says_what_to_do(result: Result, tmp_path: Path) -> None:
    folder = results.write(tmp_path, result, no_page)
    (folder / "result.json").write_text("{")
    with pytest.raises(InvalidInput, match=f"remove it, then `lab report {result.run}` writes it anew"):
        results.read(folder)
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidSetting, match=f"`lab report {result.run} --runs-dir 'my runs'` tries again"):
        results.write(tmp_path / "file", result, no_page, options=" --runs-dir 'my runs'")


def test_a_stopped_run_does_not_become_the_latest(result: Result, tmp_path: Path) -> None:
    results.write(tmp_path, result.model_copy(update={"state": "stopped"}), no_page)
    assert not (tmp_path / "latest").exists()


def test_a_spoiled_result_is_one_line(result: Result, tmp_path: Path) -> None:
    folder = results.write(tmp_path, result, no_page)
    body = json.loads((folder / "result.json").read_text())
    del body["final"]["accuracy"]
    (folder / "result.json").write_text(json.dumps(body))
    with pytest.raises(InvalidInput, match=r"final\.accuracy"):
        results.read(folder)


def test_every_field_of_a_result_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "results.md").read_text()
    documented = set(re.findall(r"`([a-z_]+)`", page))
    schema = Result.model_json_schema()
    for name in (
        "Result",
        "Final",
        "Startup",
        "Worker",
        "Spread",
        "Environment",
        "RoundRecord",
        "WorkerAccount",
    ):
        fields = schema["properties"] if name == "Result" else schema["$defs"][name]["properties"]
        missing = set(fields) - documented - {"counts", "labels"}
        assert not missing, f"docs/results.md does not name {name}: {missing}"


def test_the_report_shows_the_figures_of_the_result_and_nothing_from_outside(result: Result) -> None:
    page = report.html(result)
    for figure in (
        "80.00 %",
        "0.3333",
        "6.0 MB",
        "3.0 MB",
        result.final.weights_hash,
        result.command,
        "f" * 64,
    ):
        assert figure in page
    for worker in ("worker-1", "worker-2"):
        assert worker in page
    outside = re.findall(r'(?:src|href)="(?!#)([^"]+)"', page)
    assert outside == []
    assert "<script" not in page
    assert page.count("<svg") == 4


def test_ids_in_the_report_are_not_given_twice(result: Result) -> None:
    page = report.html(result)
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    referred = set(re.findall(r'(?:href="#|url\(#)([^")]+)', page))
    assert referred <= set(ids)


def test_a_report_escapes_what_people_write(result: Result) -> None:
    described = result.experiment.model_copy(update={"description": "<b>bold & brave</b>"})
    assert "&lt;b&gt;bold &amp; brave" in report.html(result.model_copy(update={"experiment": described}))


def test_a_report_says_of_whom_it_counts_examples(result: Result) -> None:
    clients = result.experiment.clients.model_copy(update={"holdout": 0.2})
    held = result.experiment.model_copy(update={"clients": clients})
    page = report.html(result.model_copy(update={"experiment": held}))
    words = "Examples of each client by label, those that it holds out among them; the smallest client has"
    assert words in page


def test_a_report_without_data_or_accuracy_still_says_so(result: Result) -> None:
    rounds = tuple(
        record.model_copy(update={"accuracy": None, "loss": None, "metrics": {}, "workers": {}})
        for record in result.rounds
    )
    bare = result.model_copy(
        update={"partition": None, "rounds": rounds, "startup": Startup(), "workers": (), "state": "running"}
    )
    page = report.html(bare)
    assert "Not drawn" in page and "This run had not ended when this was written" in page


def test_a_report_that_lab_has_written_is_shown_by_the_next_lab_on_this_machine(
    result: Result, experiment: Experiment, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with native(Folders(runs=tmp_path)) as lab, lab.api() as api:
        run = api.create(CreateRun(experiment=experiment))[0].id
        api.stop(run)
        assert api.run(run).report is False
        folder = results.write(tmp_path, result.model_copy(update={"run": run}), report.html)
        assert api.run(run).report is True
        shown = httpx.get(f"{lab.url}/v1/runs/{run}/report")
        earlier = results.write(tmp_path, result.model_copy(update={"run": "20300101-000000-a"}), report.html)
        assert (tmp_path / "latest").resolve() == earlier.resolve()
        assert run_app(["report", "latest", "--runs-dir", str(tmp_path)]) == 0
        assert f"{run}/report.html" in capsys.readouterr().out.replace("\n", ""), "not the last one begun"
    assert shown.content == (folder / "report.html").read_bytes()
