"""Processes that lab starts."""

from __future__ import annotations

import subprocess
from pathlib import Path

from lab import children


def test_the_user_s_own_files_are_not_taken_for_ours(tmp_path: Path) -> None:
    for name in ("worker", "numpy", "runpy", "json"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('not ours')")
    command = [*children.python("worker"), "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: python -m worker ")
