"""Why a file cannot be used, where that is because it is somebody else's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from roundtable.ownership import of_another

DENIED = PermissionError(13, "Permission denied")


def test_what_another_user_owns_is_told_with_both_users_and_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    told = of_another(tmp_path, DENIED)
    assert told.startswith(f" ({tmp_path} belongs to uid {owner} and this runs as uid 54321; make own ")
    assert of_another(tmp_path / "not" / "there", DENIED) == told, "the folder around it tells"


def test_what_is_ones_own_or_has_another_trouble_needs_no_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert of_another(tmp_path / "file", DENIED) == ""
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    assert of_another(tmp_path, OSError(28, "No space left on device")) == ""
