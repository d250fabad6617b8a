"""How TensorFlow gets into the process."""

from __future__ import annotations

import errno
import importlib
import os
import subprocess
import sys
import tempfile
from types import ModuleType

import pytest
from roundtable.tasks.importing import import_tensorflow


@pytest.mark.parametrize("there", [(), ("matplotlib",)])
def test_keras_does_not_get_to_import_what_is_not_wanted_and_whoever_wants_it_later_does(
    monkeypatch: pytest.MonkeyPatch, there: tuple[str, ...]
) -> None:
    for name in ("keras", "sklearn", "matplotlib"):
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
        import_tensorflow()
    assert seen == ["keras"] and "sklearn" not in sys.modules
    assert ("matplotlib" in sys.modules) is bool(there)


def test_what_tensorflow_says_of_itself_is_left_out_and_the_rest_comes_through(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def imported(_: str) -> None:
        os.write(
            2, b"WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\n"
        )
        os.write(2, b"I0000 00:00:1795345853.117441    3436 port.cc:153] oneDNN custom operations are on.\n")
        os.write(2, b"E0000 00:00:1795345853.117441    3436 cuda.cc:1] no driver\n")
        os.write(2, b"a line of another thread\n")
        raise ImportError("stop here")

    monkeypatch.delitem(sys.modules, "keras", raising=False)
    monkeypatch.setattr(importlib, "import_module", imported)
    with pytest.raises(ImportError, match="stop here"):
        import_tensorflow()
    os.write(2, b"after\n")
    said = capfd.readouterr().err
    assert (
        said
        == "E0000 00:00:1795345853.117441    3436 cuda.cc:1] no driver\na line of another thread\nafter\n"
    )


def test_the_real_one_says_nothing_even_where_stderr_is_closed() -> None:
    code = "from roundtable.tasks.importing import import_tensorflow as i; i(); import tensorflow"
    quiet = {name: value for name, value in os.environ.items() if not name.startswith("TF_")}
    for command in (f'"$0" -c "{code}"', f'"$0" -c "{code}" 2>&-'):
        done = subprocess.run(
            ["sh", "-c", command, sys.executable], capture_output=True, text=True, env=quiet, check=False
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_where_no_file_can_be_made_it_is_imported_all_the_same_and_heard(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.delitem(sys.modules, "keras", raising=False)
    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    monkeypatch.setattr(
        importlib, "import_module", lambda _: os.write(2, b"I0000 00:00:1 3436 port.cc:153]\n")
    )
    import_tensorflow()
    assert capfd.readouterr().err == "I0000 00:00:1 3436 port.cc:153]\n"
