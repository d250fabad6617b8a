"""What a watcher of a run is told: server-sent events that can be picked up again where they were left.

Nothing is queued for watchers. A run, its workers and each of its rounds are things with a latest version; an
event says what one of them is now. A watcher that is slow, or comes back with the id of the last event it
saw, is told of everything that has a later version, once. Versions start at the milliseconds of the wall
clock, so that those of a restarted aggregator are later than all that came before.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Final

from roundtable.messages import Event, RoundRecord, RunView, WorkerView
from roundtable.types import Seconds

from aggregator.clock import Clock

HEARTBEAT: Final[Seconds] = 15.0
BREATH: Final[Seconds] = 0.1  # between two batches: many changes become one event
_NOTES: Final = 100


class Feed:
    """Of one run. `view` and `workers` are asked only when somebody watches."""

    def __init__(
        self, clock: Clock, view: Callable[[], RunView], workers: Callable[[], tuple[WorkerView, ...]]
    ) -> None:
        self._clock = clock
        self.view = view
        self._workers = workers
        self._seq = int(clock.wall() * 1000)
        self._rounds: dict[int, tuple[int, RoundRecord]] = {}  # latest version last
        self._notes: deque[tuple[int, str]] = deque(maxlen=_NOTES)
        self._run_seq, self._workers_seq = self._next(), self._next()
        self._changed = asyncio.Event()
        self._closed = False

    def _next(self) -> int:
        self._seq += 1
        return self._seq

    def follow(self, view: Callable[[], RunView]) -> None:
        """The run is to be seen elsewhere from now on."""
        self.view = view
        self.run_changed()

    def run_changed(self) -> None:
        self._run_seq = self._next()
        self._changed.set()

    def workers_changed(self) -> None:
        self._workers_seq = self._next()
        self._changed.set()

    def round_changed(self, record: RoundRecord) -> None:
        self._rounds.pop(record.round, None)
        self._rounds[record.round] = (self._next(), record)
        self._changed.set()

    def note(self, text: str) -> None:
        self._notes.append((self._next(), text))
        self._changed.set()

    def close(self) -> None:
        """No more will come: watchers get what there is and are sent home."""
        self._closed = True
        self._changed.set()

    def after(self, seq: int) -> list[Event]:
        """Everything with a later version than `seq`, oldest first."""
        events = [Event(seq=at, kind="note", note=text) for at, text in self._notes if at > seq]
        events += [Event(seq=at, kind="round", round=record) for at, record in self._newer(seq)]
        if self._run_seq > seq:
            events.append(Event(seq=self._run_seq, kind="run", run=self.view()))
        if self._workers_seq > seq:
            events.append(Event(seq=self._workers_seq, kind="workers", workers=self._workers()))
        return sorted(events, key=lambda event: event.seq)

    def _newer(self, seq: int) -> Iterator[tuple[int, RoundRecord]]:
        for at, record in reversed(self._rounds.values()):
            if at <= seq:
                return
            yield at, record

    async def watch(self, seq: int) -> AsyncIterator[bytes]:
        """The stream's bytes from after `seq` until the feed is closed."""
        yield b"retry: 1000\n\n"
        while True:
            self._changed.clear()
            closed = self._closed
            events = self.after(seq)
            if events:
                seq = events[-1].seq
                yield b"".join(_frame(event) for event in events)
            if closed:
                return
            if events:
                await self._until(asyncio.Event(), BREATH)
            elif not await self._until(self._changed, HEARTBEAT):
                yield b": still here\n\n"

    async def _until(self, bell: asyncio.Event, patience: Seconds) -> bool:
        """False where nothing rang for `patience` seconds."""
        rang = True

        def give_up() -> None:
            nonlocal rang
            rang = False
            bell.set()

        timer = self._clock.call_at(self._clock.monotonic() + patience, give_up)
        try:
            await bell.wait()
        finally:
            timer.cancel()
        return rang


def _frame(event: Event) -> bytes:
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (
        event.seq,
        event.kind.encode(),
        event.model_dump_json(exclude_none=True).encode(),
    )
