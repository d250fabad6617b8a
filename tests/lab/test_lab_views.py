"""The live view: what it says in each state, at 80 and 120 columns, with and without colour."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from collections.abc import Callable

import pytest
from lab import charts, options, tables
from lab.live import HEADING, Live, Plain, clock, picture, round_line, title
from lab.progress import Progress
from lab.results import Spread
from rich.console import Console
from rich.spinner import Spinner
from roundtable.experiment import Experiment
from roundtable.messages import Event, RoundRecord, RunDetail, RunView, WorkerView


def drawn(progress: Progress, width: int, now: float = 1004.0) -> list[str]:
    console = Console(
        file=io.StringIO(), width=width, force_terminal=True, color_system=None, legacy_windows=False
    )
    console.print(picture(progress, now, Spinner("dots")))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


@pytest.fixture
def running(detail: RunDetail, workers: tuple[WorkerView, ...]) -> Progress:
    view = RunView(**{name: getattr(detail, name) for name in RunView.model_fields})
    view = view.model_copy(update={"state": "running", "round": 2, "cohort": (0, 1, 2, 3), "arrived": (0,)})
    progress = Progress(detail.experiment, ("worker-1", "worker-2", "worker-3"))
    progress.observe(Event(seq=1, kind="run", run=view))
    progress.observe(Event(seq=2, kind="workers", workers=workers))
    for record in detail.history[:2]:
        progress.observe(Event(seq=3, kind="round", round=record))
    return progress


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_picture_fits_the_width_and_says_what_goes_on(running: Progress, width: int) -> None:
    running.died["worker-2"] = "Killed: " + "out of memory " * 20
    lines = drawn(running, width)
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    for words in (
        "2/3 rounds",
        "round 3: 1 of 4 clients in",
        "training 1 client",
        "▲ died",
        "◌ starting",
        "clients 0 2",
        "600 MB",
    ):
        assert words in text
    assert [line.split()[0] for line in lines[-4:] if line] == ["worker-1", "worker-2", "worker-3"]


@pytest.mark.parametrize("gone", ["left", "lost"])
def test_workers_of_an_earlier_lab_are_not_taken_for_ours_that_start(
    experiment: Experiment, workers: tuple[WorkerView, ...], gone: str
) -> None:
    progress = Progress(experiment, ("worker-1", "worker-2"))
    earlier = tuple(worker.model_copy(update={"state": gone}) for worker in workers)
    ours = workers[0].model_copy(update={"id": "w3"})
    progress.observe(Event(seq=1, kind="workers", workers=earlier))
    text = "\n".join(drawn(progress, 80))
    assert (text.count("◌ starting"), gone in text) == (2, False)
    progress.observe(Event(seq=2, kind="workers", workers=(ours, *earlier)))
    text = "\n".join(drawn(progress, 80))
    assert (text.count("○ waiting"), text.count("◌ starting"), gone in text) == (1, 1, False)
    lost = ours.model_copy(update={"state": "lost", "seen_seconds_ago": 31.0})
    progress.observe(Event(seq=3, kind="workers", workers=(lost, *earlier)))
    text = "\n".join(drawn(progress, 80))
    assert (text.count("▲ lost"), text.count("◌ starting")) == (1, 1)


def test_before_anything_answers_it_says_what_it_waits_for(experiment: Experiment) -> None:
    progress = Progress(experiment, ("worker-1",))
    text = "\n".join(drawn(progress, 80))
    assert "starting the aggregator" in text
    assert "worker-1   ◌ starting" in text


def test_waiting_for_tensorflow_then_for_the_reason_the_aggregator_gives(
    running: Progress,
) -> None:
    assert running.run is not None
    waiting = running.run.model_copy(update={"state": "waiting", "reason": "no worker for client 3"})
    running.observe(Event(seq=4, kind="run", run=waiting))
    assert running.waiting_for() == "no worker for client 3"
    running.workers = ()
    assert "starting 3 workers" in running.waiting_for()


def test_a_run_gone_on_with_never_says_that_nobody_is_there_while_its_workers_start(
    detail: RunDetail, workers: tuple[WorkerView, ...]
) -> None:
    """What the aggregator said before the first worker came stands until it says something else."""
    view = RunView(**{name: getattr(detail, name) for name in RunView.model_fields})
    alone = view.model_copy(update={"state": "waiting", "reason": "no worker is there: start one"})
    progress = Progress(detail.experiment, ("worker-1", "worker-2", "worker-3"))
    told = [
        Event(seq=1, kind="run", run=alone),
        Event(seq=2, kind="workers", workers=workers),
        Event(seq=3, kind="run", run=view.model_copy(update={"state": "running", "reason": None})),
    ]
    said = []
    for event in told:
        progress.observe(event)
        said.append(progress.waiting_for())
    assert said[0] == "starting 3 workers: TensorFlow is being imported"
    assert said[1] == "starting 1 worker: TensorFlow is being imported"
    assert said[2].startswith("evaluating" if view.round >= view.rounds else "round ")
    progress.observe(Event(seq=4, kind="run", run=alone))
    assert progress.waiting_for() == alone.reason


def test_time_left_is_the_mean_round_times_the_rounds_to_come(running: Progress) -> None:
    assert running.seconds_left(now=1002.75) == pytest.approx(0.75)  # the last commit was just now
    assert running.seconds_left(now=1003.25) == pytest.approx(0.25)
    assert running.seconds_left(now=2000.0) == 0.0


def test_a_round_is_shown_once_its_evaluation_is_in_and_in_order(
    experiment: Experiment, a_round: Callable[[int], RoundRecord]
) -> None:
    progress = Progress(experiment)
    bare = {"accuracy": None, "loss": None, "metrics": {}}
    progress.observe(Event(seq=1, kind="round", round=a_round(1).model_copy(update=bare)))
    assert progress.take_rounds() == []
    progress.observe(Event(seq=2, kind="round", round=a_round(2)))
    assert progress.take_rounds() == []
    progress.observe(Event(seq=3, kind="round", round=a_round(1)))
    assert [record.round for record in progress.take_rounds()] == [1, 2]
    assert progress.take_rounds() == []


def test_a_round_that_is_never_evaluated_is_shown_at_once(
    a_round: Callable[[int], RoundRecord], experiment: Experiment
) -> None:
    every = experiment.evaluation.model_copy(update={"every": 2})
    progress = Progress(experiment.model_copy(update={"evaluation": every}))
    bare = {"accuracy": None, "loss": None, "metrics": {}}
    progress.observe(Event(seq=1, kind="round", round=a_round(1).model_copy(update=bare)))
    assert [record.round for record in progress.take_rounds()] == [1]


def test_columns_line_up_with_their_heading(a_round: Callable[[int], RoundRecord]) -> None:
    line = round_line(a_round(3).model_copy(update={"late": 1, "lost": 2, "attempt": 2}))
    assert line.endswith("4 in, 1 late, 2 lost, try 2")
    assert line.index("4 in") == HEADING.index("clients")
    assert len(line) <= 80
    assert len(round_line(a_round(3))) <= len(HEADING) <= 60


def test_plain_lines_have_no_escape_codes_and_one_line_a_round(running: Progress) -> None:
    console = Console(file=io.StringIO(), width=80)
    plain = Plain(console)
    plain.begin(running.experiment)
    plain.update(running)
    plain.update(running)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "\x1b" not in text
    assert text.count("60.00 %") == 1
    assert text.count("70.00 %") == 1


def test_what_is_suggested_in_the_live_view_can_be_copied(running: Progress) -> None:
    console = Console(file=io.StringIO(), width=40, force_terminal=True, color_system=None)
    command = "lab resume 20300101-120000-small --runs-dir 'my runs' --tasks-dir tasks"
    Live(console).say(f"run r was left after round 1: `{command}` goes on with it")
    assert isinstance(console.file, io.StringIO)
    assert command.removeprefix("lab") in console.file.getvalue()
    assert any("worker-1" in line for line in drawn(running, 40))


def test_one_is_not_called_many(experiment: Experiment, a_round: Callable[[int], RoundRecord]) -> None:
    one = experiment.model_copy(update={"rounds": experiment.rounds.model_copy(update={"count": 1})})
    assert title(one).endswith(" · 1 round")
    below = charts.traffic([a_round(1)]).partition("matplotlib.axis_2")[0]
    assert re.findall(r">(\d[\d.]*)</text>", below) == ["1"]


def test_status_names_what_is_computed_on(workers: tuple[WorkerView, ...]) -> None:
    console = Console(file=io.StringIO(), width=80, color_system=None)
    orin = workers[1].model_copy(update={"accelerator": "GPU: Orin"})
    console.print(tables.status([], (workers[0], orin)))
    assert isinstance(console.file, io.StringIO)
    assert " GPU: Orin: worker-2\n" in console.file.getvalue()


def test_a_dumb_terminal_is_told_line_by_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for term, drawn_over in (("xterm", True), ("dumb", False)):
        monkeypatch.setenv("TERM", term)
        monkeypatch.setattr(options, "out", Console(force_terminal=True))
        assert options.animated() is drawn_over


@pytest.mark.parametrize(("seconds", "shown"), [(0, "0:00"), (61.4, "1:01"), (3725, "1:02:05")])
def test_clock(seconds: float, shown: str) -> None:
    assert clock(seconds) == shown


def test_runs_left_unfinished_by_an_earlier_lab_are_called_interrupted(detail: RunDetail) -> None:
    console = Console(file=io.StringIO(), width=100)
    console.print(tables.runs([detail.model_copy(update={"state": "running"})], live=False))
    assert isinstance(console.file, io.StringIO)
    assert "interrupted" in console.file.getvalue()


LONG = "20300101-120000-unequal-machines-of-cifar10"


@pytest.mark.parametrize("width", [60, 80])
def test_where_a_terminal_is_narrow_the_names_of_runs_fold_and_nothing_else(
    detail: RunDetail, width: int
) -> None:
    left = detail.model_copy(update={"id": LONG, "state": "running", "accuracy": 0.8})
    console = Console(file=io.StringIO(), width=width)
    console.print(tables.runs([left], live=False))
    assert isinstance(console.file, io.StringIO)
    heading, _, first, *more = [line for line in console.file.getvalue().splitlines() if line.strip()]
    assert heading.split() == ["run", "state", "rounds", "accuracy", "created"]
    name, *rest = first.split()
    assert rest[:4] == ["interrupted", "3/3", "80.00", "%"]
    assert name + "".join(map(str.strip, more)) == LONG


def test_a_pipe_gets_tables_in_their_natural_width(detail: RunDetail) -> None:
    view = detail.model_copy(update={"id": LONG, "accuracy": 0.8}).model_dump_json()
    script = (
        "import sys; from lab import options, tables; from roundtable.messages import RunDetail;"
        "options.out.print(tables.runs([RunDetail.model_validate_json(sys.argv[1])]))"
    )
    alone = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    done = subprocess.run(
        [sys.executable, "-c", script, view], capture_output=True, text=True, timeout=60, env=alone
    )
    assert f" {LONG}  finished     3/3   80.00 %" in done.stdout, done.stderr


def test_a_partition_table_sums_rows_and_columns() -> None:
    console = Console(file=io.StringIO(), width=80)
    console.print(tables.partition(Spread(labels=("cat", "dog"), counts=((1, 2), (3, 0)))))
    assert isinstance(console.file, io.StringIO)
    rows = [line.split() for line in console.file.getvalue().splitlines()]
    assert ["0", "1", "2", "3"] in rows
    assert ["1", "3", "·", "3"] in rows
    assert ["all", "4", "2", "6"] in rows


def test_mnist_s_partition_table_is_whole_in_a_terminal_of_80_columns() -> None:
    console = Console(file=io.StringIO(), width=80)
    console.print(tables.partition(Spread(labels=tuple("0123456789"), counts=((600,) * 10,) * 10)))
    assert isinstance(console.file, io.StringIO)
    assert "…" not in console.file.getvalue()
    assert ["all", *["6000"] * 10, "60000"] in [line.split() for line in console.file.getvalue().splitlines()]


@pytest.mark.parametrize(("lost", "told"), [(2, ["worker-10", "worker-11"]), (17, ["17 workers"])])
def test_lost_workers_come_after_those_that_are_here_and_many_are_summed_up(
    workers: tuple[WorkerView, ...], lost: int, told: list[str]
) -> None:
    gone = tuple(
        workers[0].model_copy(
            update={
                "id": f"w{number}",
                "node": f"worker-{number}",
                "state": "lost",
                "seen_seconds_ago": 31.0 + number,
            }
        )
        for number in range(10, 10 + lost)
    )
    console = Console(file=io.StringIO(), width=80, color_system=None)
    console.print(tables.status([], (*gone, *workers)))
    assert isinstance(console.file, io.StringIO)
    lines = [line for line in console.file.getvalue().splitlines() if "worker" in line]
    assert [line[2:22].split("  ")[0] for line in lines] == ["worker-1", "worker-2", *told]
    assert all("▲ lost" in line and "silent" in line for line in lines[2:])
    assert lost == 2 or "silent 41 s or more" in lines[2]
