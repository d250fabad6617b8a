"""What carrying out orders costs this process: bytes, CPU seconds, memory; told with updates and polls."""

from __future__ import annotations

import os
import resource
import sys
import threading
import time

import psutil
from roundtable.types import Seconds


class Traffic:
    """Bytes of message bodies in and out and seconds spent sending, since last taken. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._in = self._out = 0
        self._sending: Seconds = 0.0
        self._all_in = self._all_out = 0

    def count(self, bytes_in: int = 0, bytes_out: int = 0, sending: Seconds = 0.0) -> None:
        with self._lock:
            self._in += bytes_in
            self._out += bytes_out
            self._all_in += bytes_in
            self._all_out += bytes_out
            self._sending += sending

    def take(self) -> tuple[int, int, Seconds]:
        """(bytes in, bytes out, seconds sending) since the last call."""
        with self._lock:
            taken = self._in, self._out, self._sending
            self._in = self._out = 0
            self._sending = 0.0
            return taken

    def totals(self) -> tuple[int, int]:
        """(bytes in, bytes out) since the start."""
        with self._lock:
            return self._all_in, self._all_out


def peak_memory_bytes() -> int:
    """The most resident memory this process has had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux KiB


def memory_bytes() -> int:
    """Resident now."""
    if _STATM is not None:  # told with every poll: an open file is ten times as quick as psutil
        return int(os.pread(_STATM, 200, 0).split()[1]) * _PAGE
    return int(_PROCESS.memory_info().rss)


def cpu_seconds() -> Seconds:
    """User and system time of all threads since the process started."""
    return time.process_time()


_PROCESS = psutil.Process()
_PAGE = resource.getpagesize()
try:
    _STATM: int | None = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
except OSError:  # not Linux
    _STATM = None
