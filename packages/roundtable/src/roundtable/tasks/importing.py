"""TensorFlow and Keras, imported for the first time: how they are to be, what they need not import or say.

Importing this module imports neither; what is set here is read when they are.
"""

from __future__ import annotations

import importlib
import os
import platform
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress

os.environ["KERAS_BACKEND"] = "tensorflow"  # a user's file may be the first to import Keras
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # errors only
if platform.machine() == "x86_64":
    # TensorFlow's own choice leaves oneDNN to processors with AVX-512 VNNI; a CNN's step takes 0.6 to 0.7 of
    # the time with AVX2 too, and machines of one fleet then compute by the same library.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

# Said before TensorFlow looks at TF_CPP_MIN_LOG_LEVEL, of information alone: no line for a terminal, nor for
# a worker's log, which is one JSON object a line.
_PREAMBLE = re.compile(rb"WARNING: All log messages before absl::InitializeLog\(\)|I\d{4} ")


def import_tensorflow() -> None:
    """TensorFlow, and Keras with it, which takes seconds; nothing the second time.

    Keras would import scikit-learn and matplotlib, for wrappers and pictures that take no part here: over
    a quarter of the seconds that this takes, and complaints where matplotlib cannot write to the home folder.
    Who imports them later on, as `digits` does, gets them.
    """
    if "keras" in sys.modules:
        return
    hidden = [name for name in ("sklearn", "matplotlib") if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]  # as for a package that is not installed
    try:
        with _without_preamble():
            importlib.import_module("keras")
    finally:
        for name in hidden:
            del sys.modules[name]


@contextmanager
def _without_preamble() -> Iterator[None]:
    """What is written to stderr meanwhile, by C++ too, comes out at the end without TensorFlow's preamble."""
    try:
        said = tempfile.TemporaryFile()  # noqa: SIM115 (closed below)
    except OSError:  # a full disk, say: then it is heard
        said = None
    if said is None or sys.stderr is None:
        yield
        return
    with said:
        stderr = os.dup(2)
        os.dup2(said.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            said.seek(0)
            with suppress(OSError):  # where stderr is on a full disk, nobody hears it
                os.write(2, b"".join(line for line in said if not _PREAMBLE.match(line)))
