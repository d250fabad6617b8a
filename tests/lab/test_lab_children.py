"""Processes that lab starts."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from lab import children


@pytest.mark.parametrize(("module", "foreign"), [("worker", "numpy"), ("aggregator.verify", "aggregator")])
def test_the_user_s_own_files_are_not_taken_for_ours(tmp_path: Path, module: str, foreign: str) -> None:
    for name in (foreign, "worker", "runpy", "json"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('not ours')")
    command = [*children.python(module), "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: python -m {module} ")
