"""How TensorFlow gets into the process."""

from __future__ import annotations

import importlib
import sys

import pytest
from worker import runtime


def test_keras_does_not_get_to_import_scikit_learn_and_whoever_wants_it_later_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("tensorflow", "sklearn"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    seen: list[object] = []

    def imported(name: str) -> None:
        seen.append(name)
        with pytest.raises(ImportError):
            __import__("sklearn")
        raise ImportError("stop here")

    monkeypatch.setattr(importlib, "import_module", imported)
    with pytest.raises(ImportError, match="stop here"):
        runtime.accelerator()
    assert seen == ["tensorflow"] and "sklearn" not in sys.modules
