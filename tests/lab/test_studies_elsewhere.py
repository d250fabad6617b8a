"""Studies on a lab that is not this machine's: what is not known of it here, and what is left there."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import httpx
import pytest
from lab.api import Api
from lab.native import Folders
from lab.place import Place
from lab.progress import Progress
from lab.study import page
from lab.study.cells import cells
from lab.study.show import Silent
from lab.study.sitting import Sitting, TooSlow, _Watch
from roundtable.errors import NotPossible, StorageFull
from roundtable.experiment import Experiment
from roundtable.messages import RunDetail, WorkerView

from tests.lab.studies import a_record, a_repeat, section, tiny, versions
from tests.lab.test_study_runs import Study

URL = "http://10.0.0.5:8080"


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path)


def told(aggregator: str, *workers: str) -> dict[str, tuple[str, ...]]:
    return {"aggregator": (aggregator * 64,), "worker": tuple(worker * 64 for worker in workers)}


@pytest.mark.parametrize(
    ("then", "words"),
    [
        (told("a", "c"), "the worker's code is not one (bbbbbbbbb, ccccccccc)"),
        (told("a", "b", "c"), "the worker's code is not one (bbbbbbbbb, ccccccccc)"),
        (told("d", "b"), "the aggregator's code is not one (aaaaaaaaa, ddddddddd)"),
    ],
)
def test_a_repeat_of_other_code_than_those_before_it_ends_the_study_and_is_not_kept(
    study: Study, then: dict[str, tuple[str, ...]], words: str
) -> None:
    def upgraded(experiment: Experiment) -> Any:
        code = then if len(study.carried) > 3 else told("a", "b")
        return a_repeat(experiment.seed, (0.9,), code=code)

    study.sitting.outcome = upgraded
    with pytest.raises(NotPossible) as caught:
        study.go()
    assert words in str(caught.value) and "those before it are" in str(caught.value)
    assert sum(map(len, study.kept().values())) == 3


def test_what_was_kept_of_several_codes_is_not_averaged(tmp_path: Path) -> None:
    part = section(tiny(tmp_path, "[2]"))
    (cell,) = cells(part)
    record = a_record(part, cell, tuple(a_repeat(seed, (0.9,), code=told("a", f"{seed}")) for seed in (1, 2)))
    with pytest.raises(NotPossible, match=r"tiny: the worker's code is not one .*--fresh"):
        page._check_together(part, {cell.id: record})


def test_a_report_says_that_versions_are_those_of_the_command_alone(tmp_path: Path) -> None:
    part = section(tiny(tmp_path, "[2]"))
    (cell,) = cells(part)
    there = {"where": URL, "aggregator_environment": {"numpy": "2.9", "code": "a" * 64}}
    record = a_record(part, cell, (a_repeat(1, (0.9,), code=told("a", "b")),)).model_copy(update=there)
    environment = dict(page._environment([record]))
    assert {"machine of `lab` alone", "versions of `lab` alone", "code of `lab` alone"} < environment.keys()
    assert environment["code there"] == f"aggregator {'a' * 16}, worker {'b' * 16}"
    assert environment["aggregator there"] == "numpy 2.9"


def test_a_repeat_keeps_what_aggregator_and_workers_told_of_their_code(
    tmp_path: Path, experiment: Experiment, detail: RunDetail, workers: tuple[WorkerView, ...]
) -> None:
    watch = _Watch(Silent(), 1e12, 1.0)
    codes = ("b" * 64, None)  # one of somebody else's tells nothing
    present = [worker.model_copy(update={"code": code}) for worker, code in zip(workers, codes, strict=True)]
    watch.update(Progress(experiment, workers=tuple(present)))
    detail = detail.model_copy(update={"environment": {"code": "a" * 64}})
    sitting = Sitting(Place(Folders(tmp_path), URL), 2, Silent())
    sitting._api = Api(URL, transport=httpx.MockTransport(lambda _: httpx.Response(200, json=[{}])))
    repeat = sitting._repeat(experiment, detail, "r", None, 0.0, 1.0, watch)
    assert repeat.code == told("a", "b")


@pytest.mark.parametrize("ending", [KeyboardInterrupt(), StorageFull("r1 cannot go on"), TooSlow("long")])
def test_a_run_that_nobody_waits_for_any_more_is_stopped_there(
    tmp_path: Path, experiment: Experiment, monkeypatch: pytest.MonkeyPatch, ending: BaseException
) -> None:
    asked = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(f"{request.method} {request.url.path}")
        body = RunDetail(
            **{"id": "r1", "name": "x", "state": "stopped", "rounds": 3, "created": 0.0},
            experiment_hash=experiment.digest,
            experiment=experiment,
        )
        return httpx.Response(201, content=body.model_dump_json())

    def ended(*_: object) -> None:
        raise ending

    monkeypatch.setattr("lab.study.sitting.follow", ended)
    sitting = Sitting(Place(Folders(tmp_path), URL), 2, Silent())
    sitting._api = Api(URL, transport=httpx.MockTransport(answer))
    with nullcontext() if isinstance(ending, TooSlow) else pytest.raises(type(ending)):
        sitting.carry_out(experiment, 10.0)
    assert asked[:2] == ["POST /v1/runs", "POST /v1/runs/r1/stop"]


def test_a_busy_lab_is_stopped_with_the_options_that_it_takes(tmp_path: Path, detail: RunDetail) -> None:
    busy = f"[{detail.model_copy(update={'state': 'running'}).model_dump_json()}]"
    api = Api(URL, transport=httpx.MockTransport(lambda _: httpx.Response(200, content=busy)))
    sitting = Sitting(Place(Folders(tmp_path), URL, Path("my token")), 2, Silent())
    with pytest.raises(NotPossible) as caught:
        sitting._leave_alone(api)
    assert f"`lab stop {detail.id} --url {URL} --admin-token-file 'my token'`" in str(caught.value)


def test_two_tasks_that_this_machine_lacks_have_data_of_their_own(tmp_path: Path) -> None:
    levels = (
        '[{ name = "one", set = { task = "mnist" } }, { name = "other", set = { task = "fashion-mnist" } }]'
    )
    part = section(tiny(tmp_path, levels))
    unknown = versions(part, task=None, labels=None)
    found = {
        cell.id: a_record(part, cell, (a_repeat(1, (0.9,), data_hash=f"{number}" * 64),)).model_copy(
            update={"versions": unknown, "where": URL}
        )
        for number, cell in enumerate(cells(part))
    }
    page._check_together(part, found)
