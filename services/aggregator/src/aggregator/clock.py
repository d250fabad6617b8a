"""Time, injected: whatever waits or stamps asks a Clock, so that tests turn it by hand."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

from roundtable.types import Seconds


class Timer(Protocol):
    def cancel(self) -> None: ...


class Clock(Protocol):
    def monotonic(self) -> Seconds:
        """Never goes back; its zero means nothing. Events carry it."""

    def wall(self) -> Seconds:
        """Unix seconds, for people and records."""

    def call_at(self, when: Seconds, callback: Callable[[], None]) -> Timer:
        """Call once, on the event loop, when monotonic() has reached `when`."""


class SystemClock:
    def monotonic(self) -> Seconds:
        return time.monotonic()

    def wall(self) -> Seconds:
        return time.time()

    def call_at(self, when: Seconds, callback: Callable[[], None]) -> Timer:
        return asyncio.get_running_loop().call_later(max(when - time.monotonic(), 0.0), callback)
