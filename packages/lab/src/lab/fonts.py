"""Where matplotlib keeps what it knows of this machine's fonts, decided before anything imports it."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path


def house() -> None:
    """Where the home folder cannot be written to, matplotlib would complain with each picture, look for the
    fonts anew, and leave a folder behind: there it gets one that stays.
    """
    with suppress(OSError, RuntimeError):  # no home, or nowhere else either: then it complains
        if "MPLCONFIGDIR" in os.environ or os.access(Path("~").expanduser(), os.W_OK | os.X_OK):
            return
        folder = Path(tempfile.gettempdir(), f"matplotlib-{os.getuid()}")
        folder.mkdir(0o700, exist_ok=True)
        if folder.lstat().st_uid == os.getuid():  # not one that somebody else has put there
            os.environ["MPLCONFIGDIR"] = str(folder)
