"""How TensorFlow gets into the process."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import pytest
from worker import runtime


@pytest.mark.parametrize("there", [(), ("matplotlib",)])
def test_keras_does_not_get_to_import_what_is_not_wanted_and_whoever_wants_it_later_does(
    monkeypatch: pytest.MonkeyPatch, there: tuple[str, ...]
) -> None:
    for name in ("tensorflow", "sklearn", "matplotlib"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    for name in there:
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    seen: list[object] = []

    def imported(name: str) -> None:
        seen.append(name)
        for hidden in {"sklearn", "matplotlib"} - {*there}:
            with pytest.raises(ImportError):
                __import__(hidden)
        for name in there:
            __import__(name)
        raise ImportError("stop here")

    monkeypatch.setattr(importlib, "import_module", imported)
    with pytest.raises(ImportError, match="stop here"):
        runtime.accelerator()
    assert seen == ["tensorflow"] and "sklearn" not in sys.modules
    assert ("matplotlib" in sys.modules) is bool(there)
