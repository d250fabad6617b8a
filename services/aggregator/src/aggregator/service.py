"""The whole service, put together: what the HTTP app and the process around it need, and the order of coming
and going.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import secrets
import tempfile
from pathlib import Path
from typing import IO, Final

from roundtable.errors import InvalidSetting
from roundtable.ownership import of_another
from roundtable.telemetry import Telemetry, source
from roundtable.types import Seconds

from aggregator import autostart, tokens
from aggregator.clock import Clock, SystemClock
from aggregator.desk import Desk
from aggregator.logs import note
from aggregator.points import Points
from aggregator.reception import Reception
from aggregator.relay import Relay
from aggregator.replies import Replies
from aggregator.runs import Runs
from aggregator.settings import ServiceSettings
from aggregator.store import FILE
from aggregator.turns import Turns

FAREWELL: Final[Seconds] = 0.5  # for the last points


class Service:
    """Use `open` and `close`, once each, on one event loop."""

    def __init__(self, settings: ServiceSettings, clock: Clock | None = None) -> None:
        """Raises InvalidSetting for tokens and folders that cannot be used, and for a state folder in use."""
        self.settings = settings
        self.clock = clock or SystemClock()
        if settings.spool_dir is not None:
            _check_spool(settings.spool_dir)
        self._lock = _lock(settings)
        self.tokens = tokens.open_tokens(
            settings.join_token,
            settings.admin_token,
            settings.session_secret,
            None if settings.loopback_only else settings.read_token,
        )
        self.telemetry = (
            Telemetry(settings.telemetry_url, say=note, monotonic=self.clock.monotonic)
            if settings.telemetry_url
            else None
        )
        self.points = Points(self.clock, self.telemetry, source(secrets.token_hex(4)))
        self.relay = Relay(self.clock, Telemetry(settings.telemetry_url) if settings.telemetry_url else None)
        self.turns = Turns()
        self.desk = Desk(self.clock)
        self.reception = Reception(settings, self.clock, self.turns, self.desk, self.tokens, self.points)
        self.runs = Runs(
            settings,
            self.clock,
            self.turns,
            self.desk,
            self.points,
            self.reception.present,
            self.reception.views,
        )
        self.reception.runs = self.runs
        self.replies = Replies(settings, self.clock, self.turns, self.desk, self.runs)
        self.ready = False
        self.not_started: str | None = None  # why the service's own experiment could not be
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Open the store and go on with what was under way. Raises CorruptStore, StorageFull."""
        await self.runs.storing.open(self.settings.state_dir / FILE)
        if self.telemetry is not None:
            self.telemetry.start()
        self.relay.start()
        self._task = asyncio.create_task(self.turns.run())
        await self.reception.begin()
        first = autostart.first(self.settings)
        if isinstance(first, str):
            self.not_started = first
        await self.turns.submit(
            lambda: self.runs.begin(first if isinstance(first, autostart.First) else None)
        )
        self.ready = True

    def release(self) -> None:
        """Send home everyone who waits: long polls and watchers."""
        self.ready = False
        self.desk.close()
        self.runs.release()

    async def close(self) -> None:
        """What is in the store stays; a fold that is being done is finished, its round committed at the next
        start.
        """
        self.release()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            await self.runs.close()
        if self.telemetry is not None:
            await asyncio.to_thread(self.telemetry.close, FAREWELL)
        await asyncio.to_thread(self.relay.close, FAREWELL)
        self._lock.close()


def _check_spool(folder: Path) -> None:
    """Made, and written to: before a run needs it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise InvalidSetting(
            f"SPOOL_DIR {folder}: {error.strerror}{of_another(folder, error)}: "
            "choose a folder that can be written to"
        ) from None


def _lock(settings: ServiceSettings) -> IO[bytes]:
    """The state folder belongs to one aggregator at a time; the lock dies with the process."""
    folder = settings.state_dir
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "lock").open("ab")
    except OSError as error:
        raise InvalidSetting(
            f"STATE_DIR {folder}: {error.strerror}{of_another(folder / 'lock', error)}: "
            "choose a folder that can be written to"
        ) from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise InvalidSetting(
            f"STATE_DIR {folder}: another aggregator uses it: stop that one, or choose another --state-dir"
        ) from None
    if not os.access(folder, os.W_OK):
        file.close()
        raise InvalidSetting(
            f"STATE_DIR {folder}: cannot be written to: choose another folder with --state-dir"
        )
    return file
