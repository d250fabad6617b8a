"""Watching one run to its end: events in a thread, the terminal and our processes in the main one."""

from __future__ import annotations

import queue
import signal
import threading
from typing import TypeAlias

from roundtable.errors import RoundtableError, RunFailed, Unreachable
from roundtable.messages import Event, RunDetail
from roundtable.types import RunId, Seconds

from lab.api import Api
from lab.children import Child
from lab.live import Show
from lab.native import Native
from lab.progress import Progress

TICK: Seconds = 0.125
PATIENCE: Seconds = 60.0  # without an answer from an aggregator elsewhere

Told: TypeAlias = Event | RoundtableError | None  # None: the stream has ended


def follow(api: Api, run: RunId, progress: Progress, show: Show, native: Native | None = None) -> RunDetail:
    """Show the run until it has ended; returns all that is known of it then.

    Raises Unreachable when the aggregator dies or stays silent, RunFailed when every worker of ours has died.
    """
    told: queue.Queue[Told] = queue.Queue()
    closing = threading.Event()
    reader = threading.Thread(target=_read, args=(api, run, told, closing), name="events", daemon=True)
    reader.start()
    try:
        while True:
            ended = _listen(told, progress)
            if native is not None:
                _mourn(native, f"`lab resume {run}{progress.options}`", progress, show)
            show.update(progress)
            if ended:
                detail = api.run(run)
                _catch_up(detail, progress, show)
                return detail
    finally:
        closing.set()


def _read(api: Api, run: RunId, told: queue.Queue[Told], closing: threading.Event) -> None:
    try:
        for event in api.watch(run, patience=PATIENCE, closing=closing):
            told.put(event)
        told.put(None)
    except RoundtableError as error:
        told.put(error)


def _listen(told: queue.Queue[Told], progress: Progress) -> bool:
    """Take what has been told, at most until the next tick; True when the stream has ended."""
    try:
        item = told.get(timeout=TICK)
        while True:
            if item is None:
                return True
            if isinstance(item, RoundtableError):
                raise item
            progress.observe(item)
            item = told.get_nowait()
    except queue.Empty:
        return False


def _mourn(native: Native, resume: str, progress: Progress, show: Show) -> None:
    """Take note of our processes that have ended unasked."""
    while True:
        try:
            child = native.exits.get_nowait()
        except queue.Empty:
            return
        if child is native.aggregator:
            raise Unreachable(f"the aggregator {_fate(child)}; {resume} goes on where it was")
        progress.died[child.name] = child.last_words
        show.say(f"{child.name} {_fate(child)}", warn=True)
        if len(progress.died) == len(native.workers):
            raise RunFailed(f"every worker has died, at last {child.name}: {_fate(child)}; {resume} goes on")


def _fate(child: Child) -> str:
    code = child.process.returncode
    how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
    words = "" if code == -signal.SIGKILL else child.last_words  # nobody says why it is killed
    return f"{how}{': ' + words if words else ''} (log: {child.log})"


def _catch_up(detail: RunDetail, progress: Progress, show: Show) -> None:
    """Whatever the stream did not tell before it ended."""
    progress.run = detail
    progress.rounds.update({record.round: record for record in detail.history if record.round > 0})
    show.update(progress)
