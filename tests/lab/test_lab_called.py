"""Commands that are suggested can be typed as they are: a real `lab` says one, and the same shell runs it."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from lab.called import as_called, command
from lab.commands import run_app
from lab.live import Silent
from lab.native import Folders, Node, native, plain_nodes
from lab.options import _complete_run
from lab.place import Place
from lab.running import _interrupted, _suggest
from lab.session import Session, repeats
from roundtable.messages import RunDetail

LAB = Path(sys.executable).with_name("lab")


def suggested(*words: str | Path, folder: Path, path: str) -> str:
    """What `lab runs` on a folder without runs says to run instead, up to its arguments."""
    done = subprocess.run(
        [*words, "runs", "--runs-dir", "none"],
        cwd=folder,
        env={**os.environ, "PATH": path, "COLUMNS": "300"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    found = re.search(r"`(.+) run experiments/demo.toml --runs-dir none`", done.stderr)
    assert found, done.stderr
    return found[1]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """As `make` leaves it: lab in .venv/bin, and not on PATH."""
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "lab").symlink_to(LAB)
    return tmp_path


@pytest.mark.parametrize("typed", [".venv/bin/lab", "{checkout}/.venv/bin/lab"])
def test_off_path_it_is_suggested_by_where_it_is(checkout: Path, typed: str) -> None:
    words = typed.format(checkout=checkout)
    assert suggested(words, folder=checkout, path="/usr/bin:/bin") == ".venv/bin/lab"


def test_on_path_its_name_will_do(checkout: Path) -> None:
    path = f"{checkout / '.venv' / 'bin'}:/usr/bin:/bin"
    assert suggested("sh", "-c", 'exec lab "$@"', "sh", folder=checkout, path=path) == "lab"


@pytest.mark.parametrize("place", [".venv/bin", "runs of mine/first"])
def test_what_is_suggested_runs_from_the_folder_where_one_is(checkout: Path, place: str) -> None:
    folder = checkout / place
    folder.mkdir(parents=True, exist_ok=True)
    words = suggested(checkout / ".venv/bin/lab", folder=folder, path="/usr/bin:/bin")
    done = subprocess.run(
        ["sh", "-c", f"{words} --help"], cwd=folder, capture_output=True, env={"PATH": "/usr/bin:/bin"}
    )
    assert done.returncode == 0, done.stderr
    assert Path(shlex.split(words)[0]).name == "lab"


def test_whoever_runs_it_by_uv_is_told_uv(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """uv puts lab on PATH for as long as the command runs, and no longer."""
    monkeypatch.setattr(sys, "argv", [str(LAB)])
    monkeypatch.setenv("UV_RUN_RECURSION_DEPTH", "1")
    monkeypatch.setenv("PATH", f"{LAB.parent}:{tmp_path}")
    assert Path(command()).name == "lab" and command() != "lab"
    (tmp_path / "uv").touch(mode=0o755)
    assert command() == "uv run lab"


def test_messages_are_told_with_it_and_nothing_else_in_them_changes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(tmp_path / ".venv" / "bin" / "lab")])
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert as_called("no room (`lab resume r1`); the lab is up, `labels` stay") == (
        "no room (`.venv/bin/lab resume r1`); the lab is up, `labels` stay"
    )
    assert run_app(["status"]) == 3
    assert "start one with `.venv/bin/lab run`" in capsys.readouterr().err
    assert run_app(["fly"]) == 2
    assert "see `.venv/bin/lab --help`" in capsys.readouterr().err


def test_what_is_suggested_has_the_options_that_this_command_had() -> None:
    """Folders, quoted; where the nodes are; and a report where the run has ended, which cannot be resumed."""
    place = Place(Folders(Path("my runs"), Path("t"), Path("d's")))
    session = Session(place, Silent(), 0.0, (Node("a", Path("nodes/a")),), run="r1")
    folders = "--runs-dir 'my runs' --tasks-dir t --datasets-dir 'd'\"'\"'s'"
    assert _interrupted(session)[-1].endswith(f"lab resume r1 --nodes-dir nodes {folders}")
    assert repeats("r1", place, session.nodes) == (
        f".venv/bin/lab run 'my runs/r1/experiment.toml' --nodes-dir nodes --again {folders}"
    )
    session.ended = True
    assert _interrupted(session)[-1].endswith(f"lab report r1 {folders}")
    assert (Place(Folders()).options, Place(Folders()).working) == ("", "")
    assert place.options == " --runs-dir 'my runs'"
    there = Place(Folders(tasks=Path("t")), "http://h:1", Path("my token"))
    watched = _interrupted(Session(there, Silent(), 0.0, run="r1"))[1:]
    assert [line.partition("lab ")[2] for line in watched] == [
        "stop r1 --url http://h:1 --admin-token-file 'my token'",
        "status --url http://h:1 --admin-token-file 'my token'",
    ]
    assert repeats("r1", there, plain_nodes(3)).startswith(
        ".venv/bin/lab run runs/r1/experiment.toml --again"
    )
    assert there.working == " --url http://h:1 --admin-token-file 'my token' --tasks-dir t"


@pytest.mark.parametrize(("kind", "harder"), [("iid", True), ("dirichlet", False)])
def test_the_demo_suggests_a_harder_partition_unless_it_has_one(
    detail: RunDetail, capsys: pytest.CaptureFixture[str], kind: str, harder: bool
) -> None:
    partition = {"kind": kind} | ({} if harder else {"alpha": 0.1})
    demo = detail.experiment.model_validate(
        detail.experiment.model_dump(exclude={"partition"}) | {"name": "demo", "partition": partition}
    )
    session = Session(Place(Folders()), Silent(), 0.0)
    _suggest(detail.model_copy(update={"name": "demo", "experiment": demo}), session)
    told = capsys.readouterr().out
    assert ("dirichlet" in told, f"replay {detail.id}" in told) == (harder, not harder)
    assert f"verify {detail.id}\n" in told and "latest" not in told


def test_completion_that_a_shell_will_not_find_is_said_to_need_lab_on_path(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program = checkout / ".venv/bin/lab"
    monkeypatch.setenv("HOME", str(checkout))
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    monkeypatch.setattr(sys, "argv", [str(program)])
    for path, told in (("/usr/bin:/bin", True), (f"{program.parent}:/usr/bin:/bin", False)):
        monkeypatch.setenv("PATH", path)
        with pytest.raises(SystemExit):
            run_app(["--install-completion", "zsh"])
        assert ("works once `lab` is on PATH" in capsys.readouterr().err) is told


def test_runs_without_results_are_completed_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("runs/2030-done", "runs/.aggregator/runs/2030-done", "runs/.aggregator/runs/2030-cut"):
        Path(folder).mkdir(parents=True)
    Path("runs/studies").mkdir()
    Path("runs/2030-done/result.json").touch()
    assert _complete_run("") == ["latest", "2030-cut", "2030-done"]
    assert _complete_run("2030-c") == ["2030-cut"]


def test_what_is_exported_for_another_lab_does_not_steer_this_ones_aggregator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("JOIN_TOKEN_FILE", "ADMIN_TOKEN_FILE", "EXPERIMENT", "TLS_CERT_FILE", "SPOOL_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "elsewhere"))
    monkeypatch.setenv("PUBLISHED_ON", "0.0.0.0")
    monkeypatch.setenv("LOG_LEVEL", "DEBUG")
    with native(Folders(tmp_path)) as lab, lab.api() as api:
        assert api.runs() == []
    assert not (tmp_path / "elsewhere").exists()
