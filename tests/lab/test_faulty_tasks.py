"""A task that fails, or data that is not what it should be, is one line before anything starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lab.commands import run_app
from lab.exits import Exit

TASK = """
import sys
import numpy as np
from roundtable.tasks import Data, Task


class T(Task):
    def load(self, data_dir):
        x = np.zeros((40, 4), np.float32)
        y = (np.arange(40) % 2).astype(np.int64)
        return Data(x, y, x, y)

    def model(self):
        return None

    def loss(self):
        return None

    def {method}
"""


def with_task(folder: Path, method: str) -> list[str]:
    """The options of a command on an experiment whose task has this method."""
    (folder / "tasks").mkdir()
    (folder / "tasks" / "mine.py").write_text(TASK.format(method=method))
    (folder / "mine.toml").write_text('name = "mine"\ntask = "mine:T"\nclients.count = 2\n')
    return [str(folder / "mine.toml"), "--tasks-dir", str(folder / "tasks")]


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("load(self, d): return open('none.csv')", "FileNotFoundError: [Errno 2] No such file"),
        ("load(self, d): return {'x': 1}", "T.load() gave dict; it must give roundtable.tasks.Data"),
        ("load(self, d): return self.load(d)", "RecursionError"),
        ("load(self, d): sys.exit(3)", "SystemExit: 3"),
        ("describe(self): return 3 / 0", "describe() failed: ZeroDivisionError: division by zero"),
        ("describe(self): return None", "describe() gave NoneType; it must give a text"),
        ("labels(self, y): return [0] * len(y)", "labels are list; they must be an array of one integer"),
        ("labels(self, y): return y.astype(float)", "labels are float64 (40,); they must be"),
        ("labels(self, y): return y[:5]", "T.labels(y) has shape (5,); it must be one integer an example"),
        ("none(self): pass\n    classes = (0, 1)", "classes is '(0, 1)'; it must be a tuple of texts"),
        ("labels(self, y): return y - 3\n    classes = ('a', 'b')", "label -3 is unknown to the task"),
        ("labels(self, y): return y + 1\n    classes = ('a', 'b')", "label 2 is unknown to the task"),
    ],
)
def test_a_task_that_fails_is_one_line_and_starts_nothing(
    method: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = with_task(tmp_path, method)
    for command in (["check", *options], ["run", *options, "--json", "--runs-dir", str(tmp_path / "runs")]):
        assert run_app(command) == Exit.BAD_INPUT
        told = capsys.readouterr()
        assert told.err.startswith("lab: ")
        assert told.err.count("\n") == 1
        assert words in told.err
        if "Error: " in words or "Exit" in words:
            assert f"{tmp_path / 'tasks' / 'mine.py'}:19" in told.err
        assert told.out == ""
    assert not (tmp_path / "runs").exists()


def test_a_study_of_a_task_that_fails_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, *options = with_task(tmp_path, "load(self, d): return open('none.csv')")
    study = tmp_path / "study.toml"
    levels = '[[factors]]\nname = "c"\nfield = "clients.count"\nlevels = [1, 2]\n'
    study.write_text(f'name = "s"\n[experiment]\ntask = "mine:T"\nclients.count = 2\n{levels}')
    assert run_app(["study", "check", str(study), *options]) == Exit.BAD_INPUT
    told = capsys.readouterr()
    assert told.err.count("\n") == 1 and "FileNotFoundError: [Errno 2] No such file" in told.err


def test_a_model_that_fails_is_one_line_where_machines_are_weighed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = with_task(tmp_path, "none(self): pass\n    def model(self): return 3 / 0")
    with Path(options[0]).open("a") as file:
        file.write('[machines]\nclock = "virtual"\nsamples_per_second = 1\n')
    assert run_app(["check", *options]) == Exit.BAD_INPUT
    assert capsys.readouterr().err.startswith("lab: task mine:T: model() failed: ZeroDivisionError")


def test_a_task_file_that_ends_the_process_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = with_task(tmp_path, "none(self): pass\n\nsys.exit(3)")
    assert run_app(["check", *options]) == Exit.BAD_INPUT
    assert "mine.py cannot be run: SystemExit: 3" in capsys.readouterr().err


def test_labels_of_no_class_may_be_any_integers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = with_task(tmp_path, "labels(self, y): return np.where(y == 1, 10**15, -1)")
    assert run_app(["partition", *options, "--json"]) == Exit.DONE
    body = json.loads(capsys.readouterr().out)
    assert body["labels"] == ["-1", str(10**15)]
    assert np.sum(body["counts"], axis=0).tolist() == [20, 20]


@pytest.mark.parametrize("command", ["check", "partition"])
def test_what_a_task_prints_is_not_in_the_json(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = "describe(self):\n        print('described')\n        return 'words'\n\nprint('read')"
    said += f"  # by {command}: a file that was run is not run again"
    assert run_app([command, *with_task(tmp_path, said), "--json"]) == Exit.DONE
    told = capsys.readouterr()
    assert json.loads(told.out)
    assert {"read", "described"} <= set(told.err.split())


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (np.array([0, 1, -2], np.int64), "label -2 is unknown to the task, whose labels are 0 … 9"),
        (np.array([0, 1, 10], np.uint8), "label 10 is unknown to the task, whose labels are 0 … 9"),
        (
            np.array([0, 1, np.nan]),
            "labels are float64 (3,); they must be an array of one integer an example",
        ),
        (np.array(["0", "1", "2"]), "labels are <U1 (3,); they must be an array of one integer an example"),
        (np.zeros((3, 2), np.uint8), "labels are uint8 (3, 2); they must be"),
    ],
)
def test_labels_of_a_corrupt_data_file_are_one_line(
    labels: Any, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "mnist.npz", y_train=labels)
    (tmp_path / "m.toml").write_text('name = "m"\ntask = "mnist"\nclients.count = 2\n')
    assert run_app(["check", str(tmp_path / "m.toml"), "--datasets-dir", str(tmp_path)]) == Exit.BAD_INPUT
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("lab: task mnist: training set: ")
    assert words in told.err
    assert f"put right what it reads in {tmp_path}" in told.err
