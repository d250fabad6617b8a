"""Child processes that cannot outlive us: each in its own session, with a pipe whose end tells it to go.

A child sees end-of-file on its stdin when this process dies in whatever way, so nothing is left behind even
after SIGKILL. In another session, children never get the terminal's Ctrl-C: whoever started them stops them.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from roundtable.errors import RoundtableError
from roundtable.types import Seconds


@dataclass
class Child:
    """One process; what it writes goes to the end of `log`."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    logged_before: int  # bytes that were in the log when it started
    wanted: bool = True  # False once it has been told to go
    first_line: str = ""
    said: threading.Event = field(default_factory=threading.Event)  # first line on stdout, or its end

    @property
    def last_words(self) -> str:
        """The last line it logged, as a sentence where it is a JSON object; empty when it said nothing."""
        said = self.logged()[-65_536:].decode(errors="replace")
        lines = [line for line in said.splitlines() if line.strip()]
        return _sentence(lines[-1]) if lines else ""

    def logged(self) -> bytes:
        """All that it has written."""
        with suppress(OSError), self.log.open("rb") as file:
            file.seek(self.logged_before)
            return file.read()
        return b""


def python(module: str) -> list[str]:
    """The command for `python -m module`, but that a worker.py or numpy.py in the user's folder is not taken
    for ours: -m, and -c too, puts the current folder first, and -P, which does not, came with Python 3.11.
    """
    return [sys.executable, "-c", _RUN, module]


_RUN = """
import sys
sys.path[:] = filter(None, sys.path)
from runpy import run_module
run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""


def start(
    name: str,
    command: Sequence[str],
    environment: Mapping[str, str],
    log: Path,
    on_exit: Callable[[Child], None],
) -> Child:
    """Start `command`; `on_exit` is called from a thread of its own when it ends, wanted or not."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        before = file.tell()
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                env=dict(environment),
                start_new_session=True,
            )
        except OSError as error:
            raise RoundtableError(f"{name} cannot be started ({command[0]}: {error.strerror})") from None
    child = Child(name, process, log, before)
    threading.Thread(target=_attend, args=(child, on_exit), name=f"attend {name}", daemon=True).start()
    return child


def stop(children: Iterable[Child], grace: Seconds) -> None:
    """SIGTERM to all, SIGKILL after `grace` seconds to those still there; returns when all are gone."""
    present = [child for child in children if child.process.poll() is None]
    for child in present:
        child.wanted = False
        _signal(child, signal.SIGTERM)
    until = time.monotonic() + grace
    for child in present:
        try:
            child.process.wait(max(until - time.monotonic(), 0.01))
        except subprocess.TimeoutExpired:
            _signal(child, signal.SIGKILL)
            child.process.wait(5.0)


def _signal(child: Child, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(child.process.pid, number)  # the child leads its session, so its children go too


def _attend(child: Child, on_exit: Callable[[Child], None]) -> None:
    """Reads stdout to its end, so that the child never blocks on a full pipe; then reports its exit."""
    assert child.process.stdout is not None
    with child.process.stdout as stdout:
        child.first_line = stdout.readline().decode(errors="replace").strip()
        child.said.set()
        for _ in stdout:
            pass
    child.process.wait()
    on_exit(child)


def _sentence(line: str) -> str:
    try:
        body = json.loads(line)
    except ValueError:
        return line.strip()
    if not isinstance(body, dict):
        return line.strip()
    told = [str(body[key]) for key in ("event", "message", "detail", "error", "reason") if body.get(key)]
    return ": ".join(told) or line.strip()
