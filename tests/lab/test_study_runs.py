"""Running a study: what is kept, skipped, refused, trimmed and said; without processes but where slow."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lab.commands import run_app
from lab.exits import Exit
from lab.native import Folders, _locked
from lab.place import Place
from lab.progress import Progress
from lab.study import commands, power, ready
from lab.study.conduct import Conduct
from lab.study.files import load
from lab.study.pace import Load, total, trimmed
from lab.study.power import read
from lab.study.records import Repeat, Store
from lab.study.show import Plain, Silent
from lab.study.sitting import Sitting, TooSlow, _Watch, weights_of
from rich.console import Console
from roundtable.errors import NotPossible, StorageFull
from roundtable.experiment import Experiment
from roundtable.messages import RunDetail, RunView

from tests.lab.studies import MadeUp, a_repeat, tiny
from tests.monitoring import boards

ROOT = Path(__file__).parents[2]


class Study:
    """A tiny study in a folder, run by a sitting that takes no time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = tiny(folder)
        self.told = StringIO()
        self.conducts: list[Conduct] = []
        self.sitting = MadeUp(lambda experiment: a_repeat(experiment.seed, (0.3, 0.6, 0.9)))

    def go(self, **options: Any) -> Conduct:
        _, sections = load(self.path)
        found = ready.check(
            sections, Folders(self.folder, ROOT / "tasks", ROOT / "datasets"), elsewhere=False
        )
        show = Plain(Console(file=self.told, width=200))
        conduct = Conduct(
            found,
            self.folder / "out",
            self.sitting,
            show,
            time.time(),
            "native, 2 workers",
            **options,  # type: ignore[arg-type]
        )
        self.conducts.append(conduct)
        conduct.open()
        conduct.run()
        return conduct

    @property
    def carried(self) -> list[tuple[str, int]]:
        """Without the calibration's runs."""
        return [run for run in self.sitting.carried if not run[0].startswith("calibration")]

    def kept(self) -> dict[str, tuple[int, ...]]:
        records = Store(self.folder / "out/tiny").all()
        return {cell: tuple(sorted(record.seeds())) for cell, record in records.items()}


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path)


def test_each_cell_is_run_once_for_each_seed_and_never_again(study: Study) -> None:
    assert study.go().done == 6
    assert sorted(study.carried) == [(f"tiny-clients-{n}", seed) for n in (2, 8) for seed in (1, 2, 3)]
    assert study.kept() == {"clients-2": (1, 2, 3), "clients-8": (1, 2, 3)}
    assert study.go().done == 0 and len(study.carried) == 6
    assert "everything has been run before" in study.told.getvalue()


def test_an_interrupt_keeps_what_has_finished_and_the_next_go_does_the_rest(study: Study) -> None:
    _interrupt_the_fourth_run(study)
    assert sum(map(len, study.kept().values())) == 3
    study.sitting.outcome = lambda experiment: a_repeat(experiment.seed, (0.9,) * 3)
    assert study.go().done == 3
    assert study.kept() == {"clients-2": (1, 2, 3), "clients-8": (1, 2, 3)}
    assert len(set(study.carried)) == 6


def test_a_failure_is_recorded_with_its_reason_and_tried_again_only_when_asked(study: Study) -> None:
    def failing(experiment: Experiment) -> Repeat:
        bad = experiment.clients.count == 8 and experiment.seed == 2
        return a_repeat(
            experiment.seed, (0.3,) * 3, **({"state": "failed", "reason": "diverged"} if bad else {})
        )

    study.sitting.outcome = failing
    assert study.go().failed == 1
    record = Store(study.folder / "out/tiny").all()["clients-8"]
    assert [(r.seed, r.reason) for r in record.repeats if r.state == "failed"] == [(2, "diverged")]
    assert "tiny/clients-8 seed 2: FAILED: diverged" in study.told.getvalue()
    assert study.go().done == 0
    study.sitting.outcome = lambda experiment: a_repeat(experiment.seed, (0.9,) * 3)
    assert study.go(retry_failed=True).done == 1
    assert all(r.state == "finished" for r in Store(study.folder / "out/tiny").all()["clients-8"].repeats)


def test_what_failed_in_every_repeat_is_said_to_have_and_runs_again_when_asked(study: Study) -> None:
    study.sitting.outcome = lambda experiment: a_repeat(
        experiment.seed, (), state="failed", reason="diverged"
    )
    assert study.go().failed == 6
    assert study.go().done == 0
    assert "--fresh starts anew, --retry-failed runs the 6 that failed again" in study.told.getvalue()
    study.sitting.outcome = lambda experiment: a_repeat(experiment.seed, (0.9,) * 3)
    assert study.go(retry_failed=True).done == 6


def test_what_is_left_out_is_noted_with_why_until_it_has_been_run(study: Study) -> None:
    _interrupt_the_fourth_run(study)
    store = Store(study.folder / "out/tiny")
    study.conducts[-1].settle("interrupted")
    assert store.unfinished is not None and store.unfinished.why == "interrupted"
    study.sitting.outcome = lambda experiment: a_repeat(experiment.seed, (0.9,) * 3)
    study.path.write_text(study.path.read_text().replace("repeats = 3", "repeats = 4\nleast_repeats = 3", 1))
    study.go(budget=0.001).settle("")
    assert store.unfinished is not None
    assert store.unfinished.why == "a budget of time trimmed 4 repeats to 3"
    study.go().settle("")
    assert store.unfinished is None


# --- what is never mixed


def _edit(study: Study, change: Callable[[dict[str, Any]], None]) -> None:
    for path in (study.folder / "out/tiny/cells").glob("*.json"):
        body = json.loads(path.read_text())
        change(body)
        path.write_text(json.dumps(body))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda body: body["versions"].update(code="0" * 64),
            ["the code was changed", "git commit", "check out"],
        ),
        (
            lambda body: body["versions"].update(code="0" * 64, git_commit=None),
            ["the code was changed (they are of no git commit)", "restore it to go on"],
        ),
        (
            lambda body: body["versions"].update(labels="0" * 64),
            ["the data set is another", "restore the data"],
        ),
        (lambda body: body["versions"].update(task="0" * 64), ["the task's source was changed"]),
        (
            lambda body: body["versions"]["packages"].update(numpy="1.0"),
            ["numpy", "was 1.0", "install numpy 1.0"],
        ),
        (lambda body: body.update(where="http://elsewhere:8080"), ["run elsewhere (http://elsewhere:8080)"]),
    ],
)
def test_results_of_another_version_are_refused_in_one_line_with_the_remedy(
    study: Study, change: Callable[[dict[str, Any]], None], words: list[str]
) -> None:
    study.go()
    _edit(study, change)
    with pytest.raises(NotPossible) as caught:
        study.go()
    (line,) = str(caught.value).splitlines()
    assert all(word in line for word in [*words, "6 kept repeats", "--fresh"]), line


def test_a_study_file_changed_after_half_of_it_ran_is_refused_and_fresh_sets_aside(study: Study) -> None:
    study.go()
    study.path = tiny(study.folder, "[2, 9]")
    with pytest.raises(NotPossible, match="the study file was changed since its 6 kept repeats"):
        study.go()
    assert study.go(fresh=True).done == 6
    assert len(list((study.folder / "out/tiny/cells.1").glob("*.json"))) == 2
    assert study.kept() == {"clients-2": (1, 2, 3), "clients-9": (1, 2, 3)}


def test_fresh_moves_nothing_away_that_another_command_is_at_work_on(study: Study) -> None:
    study.go()
    folders = Folders(study.folder / "out/.lab", ROOT / "tasks", ROOT / "datasets")
    study.sitting = Sitting(Place(folders), 2, Silent())  # type: ignore[assignment]
    with _locked(folders), pytest.raises(NotPossible, match="another lab is using"):
        study.go(fresh=True)
    assert study.kept() == {"clients-2": (1, 2, 3), "clients-8": (1, 2, 3)}


def test_data_that_change_while_a_study_runs_end_it_and_nothing_kept_is_lost(study: Study) -> None:
    def changing(experiment: Experiment) -> Repeat:
        late = len(study.carried) > 3
        return a_repeat(experiment.seed, (0.3, 0.6, 0.9), data_hash=("b" if late else "a") * 64)

    study.sitting.outcome = changing
    with pytest.raises(NotPossible) as caught:
        study.go()
    (line,) = str(caught.value).splitlines()
    words = [
        "tiny/clients-8 seed 2: the data of task digits",
        "content bbbbbbbbb, was aaaaaaaaa",
        "it is not kept, the 3 before",
    ]
    assert all(word in line for word in [*words, "restore the data and give the same command", "--fresh"])
    assert study.kept() == {"clients-2": (1, 2), "clients-8": (1,)}
    study.sitting.outcome = lambda experiment: a_repeat(experiment.seed, (0.9,) * 3, data_hash="a" * 64)
    assert study.go().done == 3


def test_tasks_of_other_options_may_have_other_data_and_a_failure_none(tmp_path: Path) -> None:
    study = Study(tmp_path)
    few, more = (
        f'{{ name = "{tiles}", set = {{ task = "clouds", "task_options.train_tiles" = {tiles} }} }}'
        for tiles in (8, 9)
    )
    study.path = tiny(tmp_path, f"[{few}, {more}]")

    def own(experiment: Experiment) -> Repeat:
        if experiment.seed == 2:
            return a_repeat(2, (), state="failed", reason="diverged", data_hash=None)
        return a_repeat(experiment.seed, (0.9,), data_hash=f"{experiment.task_options['train_tiles']}" * 64)

    study.sitting.outcome = own
    assert study.go().done == 6


# --- the same again


@pytest.fixture
def again(study: Study, monkeypatch: pytest.MonkeyPatch) -> Study:
    """What `lab study repeat` runs is what the study's sitting gives."""
    sitting = nullcontext(study.sitting)
    monkeypatch.setattr(commands, "Sitting", lambda *_: sitting)
    return study


def _repeat(study: Study) -> int:
    places = ["--out", str(study.folder / "out"), "--datasets-dir", str(ROOT / "datasets")]
    return run_app(["study", "repeat", str(study.path), "tiny/clients-8", "--seed", "2", *places])


def test_a_repeat_without_records_tells_its_weights_to_compare(
    again: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _repeat(again) == Exit.DONE
    assert capsys.readouterr().out.splitlines() == [
        "tiny/clients-8 seed 2: 90.00 % after 3 rounds",
        f"weights {'e' * 64}",
        f"no such repeat is recorded in {again.folder}/out: compare with weights_hash in a report's "
        "repeats.csv",
    ]


def test_a_repeat_with_the_weights_recorded_says_so(again: Study, capsys: pytest.CaptureFixture[str]) -> None:
    again.go()
    assert _repeat(again) == Exit.DONE
    assert "the same weights as recorded, bit for bit" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda body: body.update(), "although code, packages, task, data and processor are the same"),
        (
            lambda body: body["versions"].update(code="0" * 64, git_commit="abcdef0123456789"),
            "the code was changed (they are of git commit abcdef012)",
        ),
        (
            lambda body: (
                body["versions"]["packages"].update(numpy="1.0"),
                body["environment"].update(cpu="Z80"),
            ),
            "and was 1.0; the processor is",
        ),
        (lambda body: body["repeats"][1].update(data_hash="0" * 64), "content ddddddddd, was 000000000"),
        (
            lambda body: body["repeats"][1]["rounds"][0].update(late=1),
            "clients were cut off by the real clock",
        ),
        (
            lambda body: body["repeats"][1]["rounds"][0].update(lost=1),  # and asked again
            "although code, packages, task, data and processor are the same",
        ),
    ],
)
def test_a_repeat_with_other_weights_says_what_is_known_to_differ(
    again: Study, capsys: pytest.CaptureFixture[str], change: Callable[[dict[str, Any]], Any], words: str
) -> None:
    again.go()
    _edit(again, change)
    again.sitting.outcome = lambda experiment: a_repeat(experiment.seed, (0.9,) * 3, weights_hash="f" * 64)
    assert _repeat(again) == Exit.FAILED
    told = capsys.readouterr().out.splitlines()
    assert told[1] == f"weights {'f' * 64}"
    assert told[2].startswith(f"its weights DIFFER from those recorded, {'e' * 64}: ") and words in told[2]


# --- a full disk


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """The kernel's own limit: a write past it fails as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_no_room_in_mid_study_leaves_no_half_cell_and_the_next_go_does_the_rest(study: Study) -> None:
    limit = files_of_at_most(100)

    def full(experiment: Experiment) -> Repeat:
        if len(study.carried) == 4:
            limit.__enter__()
        return a_repeat(experiment.seed, (0.3, 0.6, 0.9))

    study.sitting.outcome = full
    try:
        with pytest.raises(
            StorageFull, match="all repeats before it are kept: make room, and give the same command"
        ):
            study.go()
    finally:
        limit.__exit__(None, None, None)
    assert sum(map(len, study.kept().values())) == 3  # read back: every file is whole
    assert not [path for path in (study.folder / "out/tiny/cells").iterdir() if path.name.startswith(".")]
    study.sitting.outcome = lambda experiment: a_repeat(experiment.seed, (0.9,) * 3)
    assert study.go().done == 3


def _progress(experiment: Experiment, state: str, reason: str | None = None) -> Progress:
    view = RunView(
        id="r1",
        name="x",
        state=state,
        reason=reason,
        rounds=3,
        created=0.0,
        experiment_hash=experiment.digest,
    )  # type: ignore[arg-type]
    return Progress(experiment, run=view)


def test_a_run_that_pauses_for_want_of_room_ends_the_sitting_with_the_remedy(experiment: Experiment) -> None:
    watch = _Watch(Silent(), time.time() + 100, 100)
    watch.update(_progress(experiment, "running"))
    with pytest.raises(
        StorageFull, match=r"r1 cannot go on: no room in the spool; the.*make room, and give the same command"
    ):
        watch.update(_progress(experiment, "paused", "no room in the spool (`lab resume r1`)"))


def test_a_run_that_takes_longer_than_its_time_limit_is_a_failure_with_that_reason(
    experiment: Experiment,
) -> None:
    watch = _Watch(Silent(), time.time() - 1, 7)
    with pytest.raises(TooSlow, match="longer than time_limit = 7 s, in round 1"):
        watch.update(_progress(experiment, "running"))
    watch.update(_progress(experiment, "finished"))


# --- no lab to be had


def test_a_folder_that_another_study_uses_ends_the_sitting_and_is_no_failure_of_its_runs(
    experiment: Experiment, tmp_path: Path
) -> None:
    place = Place(Folders(tmp_path / "out/.lab", ROOT / "tasks", ROOT / "datasets"))
    sitting = Sitting(place, 2, Silent())
    with _locked(place.folders), sitting, pytest.raises(NotPossible) as caught:
        sitting.carry_out(experiment, 10.0)
    (line,) = str(caught.value).splitlines()
    assert "another lab is using" in line and line.endswith("use another folder with --out")


# --- what a run leaves on the disk


@pytest.mark.parametrize(
    ("state", "keep", "keep_all", "stays"),
    [
        ("finished", False, False, False),
        ("failed", False, False, False),
        ("finished", True, False, True),  # the report will draw its predictions
        ("finished", False, True, True),  # --keep-weights
        ("running", False, False, True),  # the aggregator is still at it
    ],
)
def test_a_runs_weights_go_once_it_has_ended_unless_they_are_wanted(
    tmp_path: Path, detail: RunDetail, state: str, keep: bool, keep_all: bool, stays: bool
) -> None:
    folders = Folders(tmp_path / "out/.lab", ROOT / "tasks", ROOT / "datasets")
    repeat = a_repeat(1, (0.9,))
    weights = weights_of(folders, repeat)
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"w")
    (folders.state / "lab.sqlite").write_bytes(b"s")
    sitting = Sitting(Place(folders), 2, Silent(), keep_weights=keep_all)
    sitting._put_away(repeat, detail.model_copy(update={"state": state}), keep)
    assert weights.exists() == stays and (folders.state / "lab.sqlite").exists()


def test_only_the_first_repeat_of_a_cell_with_pictures_keeps_its_weights(study: Study) -> None:
    study.go(pictured=frozenset({("tiny", "clients-8")}))
    kept = [run for run in study.sitting.kept if not run[0].startswith("calibration")]
    assert kept == [("tiny-clients-8", 1)]


# --- time


LOADS = st.lists(
    st.builds(Load, st.sampled_from("abcdef"), st.floats(0.1, 100), st.integers(1, 10), st.integers(1, 3)),
    min_size=1,
    max_size=5,
    unique_by=lambda load: load.key,
)


@settings(max_examples=50, deadline=None)
@given(LOADS, st.floats(0, 2000))
def test_trimming_stops_at_the_least_repeats_and_as_soon_as_it_fits(loads: list[Load], budget: float) -> None:
    loads = [replace(load, least=min(load.least, load.repeats)) for load in loads]
    cut = trimmed(loads, budget)
    assert [load.key for load in cut] == [load.key for load in loads]
    assert all(load.repeats >= load.least for load in cut)
    assert total(cut) <= budget or all(load.repeats == load.least for load in cut)
    if total(loads) <= budget:
        assert list(cut) == loads


def test_a_budget_trims_repeats_and_says_so_and_never_levels(study: Study) -> None:
    study.path.write_text(study.path.read_text().replace("repeats = 3", "repeats = 8\nleast_repeats = 2", 1))
    conduct = study.go(budget=0.001)
    assert conduct.done == 4 and study.kept() == {"clients-2": (1, 2), "clients-8": (1, 2)}
    told = study.told.getvalue()
    assert "trimmed from 8 to fit" in told and "levels are not trimmed" in told


def test_the_least_repeats_of_every_study_come_before_more_of_any(tmp_path: Path) -> None:
    study = Study(tmp_path)
    study.path.write_text(study.path.read_text().replace("repeats = 3", "repeats = 4\nleast_repeats = 2", 1))
    other = study.path.read_text().replace('name = "tiny"', 'name = "other"')
    (tmp_path / "other.toml").write_text(other)
    study.path = tmp_path / "both.toml"
    study.path.write_text('name = "both"\n[[parts]]\nstudy = "tiny"\n[[parts]]\nstudy = "other"\n')
    study.go()
    order = [(name.split("-")[0], seed) for name, seed in study.carried]
    assert {seed for _, seed in order[:8]} == {1, 2} and {seed for _, seed in order[8:]} == {3, 4}


# --- energy


def _counters(root: Path, **microjoules: int) -> None:
    """As the kernel lays them out on a machine of two packages; a zone's name is its folder's."""
    zones = {
        "intel-rapl:0": "package-0",
        "intel-rapl:0:0": "core",
        "intel-rapl:0:1": "dram",
        "intel-rapl:1": "package-1",
        "intel-rapl:2": "psys",
        "intel-rapl": "",
    }
    for zone, name in zones.items():
        folder = root / zone
        folder.mkdir(parents=True, exist_ok=True)
        if name:
            (folder / "name").write_text(f"{name}\n")
            (folder / "max_energy_range_uj").write_text("10000000\n")
            (folder / "energy_uj").write_text(f"{microjoules.get(name.replace('-', '_'), 5)}\n")


def test_energy_is_that_of_the_packages_alone_even_around_their_counters_ends(tmp_path: Path) -> None:
    _counters(tmp_path, package_0=9_000_000, package_1=1_000_000, psys=1_000_000)
    before = read(tmp_path)
    _counters(tmp_path, package_0=500_000, package_1=3_000_000, psys=9_000_000, core=400, dram=900_000)
    assert read(tmp_path).joules_since(before) == pytest.approx(1.5 + 2.0)
    assert read(tmp_path / "nothing").joules_since(before) is None


def test_a_counter_that_may_not_be_read_is_none_at_all(tmp_path: Path) -> None:
    _counters(tmp_path)
    before = read(tmp_path)
    for zone in ("intel-rapl:0", "intel-rapl:1"):
        (tmp_path / zone / "energy_uj").unlink()
        (tmp_path / zone / "energy_uj").mkdir()  # reading fails, for root too
    assert read(tmp_path).joules_since(before) is None


def test_a_repeat_has_the_energy_of_its_own_time(
    tmp_path: Path, experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    _counters(tmp_path, package_0=1_000_000)
    monkeypatch.setattr(power, "ROOT", tmp_path)
    watch = _Watch(Silent(), 0.0, 1.0)
    _counters(tmp_path, package_0=4_000_000)
    here = Sitting(Place(Folders(tmp_path)), 2, Silent())
    there = Sitting(Place(Folders(tmp_path), "http://elsewhere:8080"), 2, Silent())
    for sitting, joules in ((here, 3.0), (there, None)):  # another machine's counters are not ours
        repeat = sitting._repeat(experiment, None, None, "why", 0.0, 1.0, watch)
        assert repeat.joules == joules


@pytest.mark.parametrize(
    ("board", "drawn"), [("jetson-orin", 5.056 * 1.384), ("jetson-nano", 4.321), ("pi", None)]
)
def test_a_boards_sensor_is_added_up_where_there_are_no_counters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, board: str, drawn: float | None
) -> None:
    boards.build(board, tmp_path)
    monkeypatch.setattr(power, "ROOT", tmp_path / "sys/class/powercap")
    monkeypatch.setattr(power, "DRIVERS", tmp_path / "sys/bus/i2c/drivers")
    meter = power.Meter()
    for now in (10.0, 10.1, 11.0, 14.0):
        meter.sample(now)
    assert meter.joules() == (None if drawn is None else pytest.approx(4 * drawn))


# --- windows in Grafana


def test_a_repeats_window_is_of_a_dashboard_that_there_is_and_of_its_time_and_run(tmp_path: Path) -> None:
    there = Place(Folders(tmp_path), "http://127.0.0.1:8080")
    sitting = Sitting(there, 2, Silent(), grafana="http://127.0.0.1:3000/")
    link = sitting._window("20260101-run", 1000.25, 1060.0)
    assert link is not None
    url = urlsplit(link)
    query = parse_qs(url.query)
    dashboards = {
        body["uid"]: body
        for path in (ROOT / "monitoring/grafana/dashboards").glob("*.json")
        for body in [json.loads(path.read_text())]
    }
    assert f"{url.scheme}://{url.netloc}" == "http://127.0.0.1:3000"
    found = dashboards[url.path.removeprefix("/d/")]
    assert {f"var-{variable['name']}" for variable in found["templating"]["list"]} >= {"var-run"}
    assert query["var-run"] == ["20260101-run"]
    assert (int(query["from"][0]), int(query["to"][0])) == (
        1000250,
        1065000,
    )  # milliseconds, and what flushes late
    assert Sitting(there, 2, Silent())._window("r", 0.0, 1.0) is None
    native = Place(Folders(tmp_path))  # tells nobody, whatever GRAFANA_URL says
    assert Sitting(native, 2, Silent(), grafana="http://127.0.0.1:3000")._window("r", 0.0, 1.0) is None


# --- with processes


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_study_killed_in_the_middle_goes_on_and_its_cells_repeat_to_the_same_bits(tmp_path: Path) -> None:
    path = tiny(tmp_path, more="centralized = true")
    lab = [str(Path(sys.executable).with_name("lab")), "study"]
    places = ["--out", str(tmp_path / "out"), "--datasets-dir", str(ROOT / "datasets")]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    first = subprocess.Popen(
        [*lab, "run", str(path), *places], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert first.stdout is not None
    for line in first.stdout:
        if "clients-8 seed 1:" in line:
            break
    first.kill()  # nothing can be put away
    first.wait()
    again = subprocess.run([*lab, "run", str(path), *places], capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert "2 repeats are kept from before" in again.stdout
    page = (tmp_path / "out/tiny/report.html").read_text()
    assert "9 runs of 3 cells finished, 0 failed" in page and "in one place" in page
    assert not list((tmp_path / "out/.lab").rglob("*.safetensors"))  # no run's weights fill the disk
    one = subprocess.run(
        [*lab, "repeat", str(path), "tiny/clients-8", "--seed", "2", *places],
        capture_output=True,
        text=True,
        check=False,
    )
    assert one.returncode == 0 and "the same weights as recorded, bit for bit" in one.stdout


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_run_whose_aggregators_memory_is_measured_has_a_new_one_and_the_same_workers(
    experiment: Experiment, tmp_path: Path
) -> None:
    place = Place(Folders(tmp_path / "out/.lab", ROOT / "tasks", ROOT / "datasets"))
    with Sitting(place, 1, Silent()) as sitting:
        repeats, processes = [], []
        for fresh in (True, False, True, True):
            repeats.append(sitting.carry_out(experiment, 120.0, fresh=fresh))
            assert sitting._lab is not None
            workers = [worker.process.pid for worker in sitting._lab.workers]
            processes.append((sitting._lab.aggregator.process.pid, *workers))
    assert [repeat.state for repeat in repeats] == ["finished"] * 4, [repeat.reason for repeat in repeats]
    assert len({repeat.weights_hash for repeat in repeats}) == 1
    aggregators, workers = zip(*processes, strict=True)
    assert aggregators[0] == aggregators[1] and len(set(aggregators)) == 3 and len(set(workers)) == 1
    assert not any(psutil.pid_exists(process) for process in (*aggregators, *workers))


def _interrupt_the_fourth_run(study: Study) -> None:
    def interrupted(experiment: Experiment) -> Repeat:
        if len(study.carried) == 4:
            raise KeyboardInterrupt
        return a_repeat(experiment.seed, (0.3, 0.6, 0.9))

    study.sitting.outcome = interrupted
    with pytest.raises(KeyboardInterrupt):
        study.go()
