"""Make targets that need no engine: what they ask and where they lead, with a docker that notes its words."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKER = """#!/bin/sh
echo "$*" >>told
case "$*" in *"ps --all"*) echo 0123456789ab ;; esac
"""
MAKE = ("make", "--no-print-directory")  # as it is where no `make test` is around it


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in (".venv/bin", "packages", "services/__pycache__", "tests", "runs", "tools"):
        (tmp_path / name).mkdir(parents=True)
    for name, text in {"docker": DOCKER, "xdg-open": '#!/bin/sh\necho "$1" >opened\n'}.items():
        (tmp_path / "tools" / name).write_text(text)
        (tmp_path / "tools" / name).chmod(0o755)
    return tmp_path


def make(checkout: Path, *words: str, answers: str = "", **settings: str) -> str:
    path = f"{checkout / 'tools'}:{os.environ['PATH']}"
    done = subprocess.run(
        [*MAKE, *words],
        cwd=checkout,
        env=os.environ | {"PATH": path} | settings,
        input=answers,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("answers", ["", "n\nn\n", "\n\n"])
def test_clean_asks_before_anything_and_without_a_yes_everything_stays(checkout: Path, answers: str) -> None:
    asked = make(checkout, "clean", answers=answers)
    assert (
        "remove what was installed and cached here" in asked and "the lab's containers and volumes" in asked
    )
    assert (checkout / ".venv").is_dir() and (checkout / "services" / "__pycache__").is_dir()
    assert "down" not in (checkout / "told").read_text()


def test_clean_removes_what_one_says_yes_to_and_never_results(checkout: Path) -> None:
    (checkout / "bench-core.json").touch()
    make(checkout, "clean", answers="y\nn\n")
    assert (checkout / "bench-core.json").exists()
    assert not (checkout / ".venv").exists() and not (checkout / "services" / "__pycache__").exists()
    assert (checkout / "runs").is_dir() and "down" not in (checkout / "told").read_text()
    make(checkout, "clean", answers="n\ny\n")
    assert "down --volumes" in (checkout / "told").read_text()


@pytest.mark.parametrize("target", ["demo", "bench"])
def test_they_are_of_this_machine_whichever_lab_one_usually_asks(checkout: Path, target: str) -> None:
    for name in ("uv.lock", "pyproject.toml", ".venv/.installed"):
        (checkout / name).touch()
    (checkout / ".venv/bin/lab").write_text('#!/bin/sh\necho "${LAB_URL-this machine}"\n')
    (checkout / ".venv/bin/lab").chmod(0o755)
    (checkout / "studies").mkdir(exist_ok=True)
    (checkout / "studies/quick.toml").touch()
    assert make(checkout, target, "UV_NEEDED=", LAB_URL="https://10.0.0.5:8080") == "this machine\n"


@pytest.mark.parametrize(
    "env, settings, url",
    [
        ("", {}, "http://127.0.0.1:3000"),
        ("GRAFANA_PORT=3100\nGRAFANA_BIND=10.0.0.5\n", {}, "http://10.0.0.5:3100"),
        ("GRAFANA_PORT=3100\n", {"GRAFANA_PORT": "3200"}, "http://127.0.0.1:3200"),
        ("GRAFANA_BIND=0.0.0.0\n", {}, "http://127.0.0.1:3000"),
    ],
)
def test_open_leads_to_where_grafana_is(checkout: Path, env: str, settings: dict[str, str], url: str) -> None:
    (checkout / ".env").write_text(env)
    make(checkout, "open", **settings)
    assert (checkout / "opened").read_text().strip() == url


def test_down_and_ps_and_logs_know_the_slow_workers_too(checkout: Path) -> None:
    (checkout / "scripts").mkdir()
    (checkout / "scripts" / "preflight.sh").write_text("exit 0\n")
    for target in ("down", "ps", "logs", "rerun", "own"):
        make(checkout, target)
    told = (checkout / "told").read_text().splitlines()
    assert len(told) == 5 and all(line.startswith("compose --profile slow ") for line in told)


def test_help_in_a_pipe_is_plain_text_and_bold_on_a_terminal(checkout: Path) -> None:
    piped = make(checkout, "help")
    assert "\x1b" not in piped
    terminal, end = pty.openpty()
    with os.fdopen(terminal, "rb", buffering=0) as screen:
        making = subprocess.Popen(
            [*MAKE, "help"], cwd=checkout, env=os.environ | {"TERM": "xterm"}, stdout=end
        )
        os.close(end)
        shown = b""
        with contextlib.suppress(OSError):  # Linux's word for the end of a terminal
            while more := screen.read(65536):
                shown += more
        assert making.wait(60) == 0
    text = shown.decode().replace("\r\n", "\n")
    assert "\x1b[1mmake up" in text
    assert re.sub(r"\x1b\[[0-9]*m", "", text) == piped
