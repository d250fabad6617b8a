"""Standard output that may be lost: whoever read it has gone, its disk is full. Only cli.py puts it in place.

What is said from then on goes nowhere, and a command keeps its own exit code. Who would only work to be read,
a run that is followed, asks `lost`; that the disk is full is told in the end, on stderr (cli.py).
"""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path


class Stdout(io.TextIOWrapper):
    fault: OSError | None = None

    def write(self, text: str) -> int:
        if self.fault is None:
            try:
                return super().write(text)
            except OSError as error:
                self.fault = error
        return len(text)

    def flush(self) -> None:
        if self.fault is None:
            try:
                super().flush()
            except OSError as error:
                self.fault = error


def install() -> None:
    """Letters that its encoding lacks are written as "?"."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass  # one that was closed (>&-): no file of ours is to take its place
    os.close(number)
    if isinstance(old := sys.stdout, io.TextIOWrapper):
        sys.stdout = Stdout(old.buffer, old.encoding, "replace", line_buffering=old.line_buffering)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 (for good)


def fault() -> OSError | None:
    """Why it is lost; nothing where a reader has gone, who knows it, or all is well."""
    told = sys.stdout.fault if isinstance(sys.stdout, Stdout) else None
    return None if isinstance(told, BrokenPipeError) else told


def lost() -> bool:
    return isinstance(sys.stdout, Stdout) and sys.stdout.fault is not None
