"""Ctrl-C, a polite kill and a closed terminal: when they interrupt, and when they have to wait."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def install() -> None:
    """All become KeyboardInterrupt; SIGINT too, which a script's background job would ignore."""
    for number in INTERRUPTS:
        signal.signal(number, _interrupt)


@contextmanager
def deferred() -> Iterator[None]:
    """For what must be whole, as starting a process and noting it: an interrupt comes right after."""
    came: list[int] = []
    with _handled(lambda number, _: came.append(number)):
        yield
    if came:
        raise KeyboardInterrupt


@contextmanager
def final() -> Iterator[None]:
    """While nothing has been started yet: an interrupt ends the process at once."""
    with _handled(lambda *_: os._exit(130)):
        yield


@contextmanager
def deaf() -> Iterator[None]:
    """While everything is being stopped: a second Ctrl-C changes nothing, it is a matter of seconds."""
    with _handled(lambda number, _: None):  # noqa: ARG005 (as the signal module calls it)
        yield


@contextmanager
def _handled(handler: object) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return
    before = {number: signal.signal(number, handler) for number in INTERRUPTS}  # type: ignore[arg-type]
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def _interrupt(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001 (as the signal module calls it)
    raise KeyboardInterrupt
