"""The entry point of `lab`. It imports next to nothing before it guards: Ctrl-C is quiet from the start.

The commands are put together in commands.py, where each mistake of a user's becomes one line and a code.
"""

from __future__ import annotations

import signal
import sys
from types import FrameType


def main() -> None:
    """Run `lab` and exit with its code."""
    for number in (
        signal.SIGINT,
        signal.SIGTERM,
        signal.SIGHUP,
    ):  # SIGINT too: a script's background job ignores it
        signal.signal(number, _interrupt)
    try:
        from lab.commands import run_app

        code = run_app(sys.argv[1:])
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


def _interrupt(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001 (as the signal module calls it)
    """A terminal that closes and a polite kill mean what Ctrl-C means."""
    raise KeyboardInterrupt
