"""What a watcher of a run is told: server-sent events that can be picked up again where they were left.

Nothing is queued for watchers. A run, its workers and each of its rounds are things with a latest version; an
event says what one of them is now. A watcher that is slow, or comes back with the id of the last event it
saw, is told of everything that has a later version, once. Versions start at the milliseconds of the wall
clock, so that those of a restarted aggregator are later than all that came before. Where the clock was set
back they are not: an id that is yet to be counted is taken for none.

`Feed` is of one run. `LabFeed` is of all of them: the same versions, counted together.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from itertools import count
from typing import Final

from roundtable.messages import Event, LabEvent, RoundRecord, RunView, WorkerView
from roundtable.types import Seconds

from aggregator.clock import Clock

HEARTBEAT: Final[Seconds] = 15.0
BREATH: Final[Seconds] = 0.1  # between two batches: many changes become one event
LAB_BREATH: Final[Seconds] = 0.25  # for the eye
_NOTES: Final = 100
_PARTED: Final = 4  # feeds of runs that have ended


def numbers(clock: Clock) -> Iterator[int]:
    """Versions."""
    return count(int(clock.wall() * 1000) + 1)


def _since(seq: int, versions: Iterator[int]) -> int:
    """The last version that a reader has seen of what is counted here."""
    return seq if seq < next(versions) else 0


class Feed:
    """Of one run. `view` and `workers` are asked only when somebody watches."""

    def __init__(
        self,
        clock: Clock,
        view: Callable[[], RunView],
        workers: Callable[[], tuple[WorkerView, ...]],
        versions: Iterator[int] | None = None,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        """`versions`: where they are counted together with those of other feeds; `changed` is called then."""
        self._clock = clock
        self.view = view
        self._workers = workers
        self._versions = numbers(clock) if versions is None else versions
        self._tell = changed
        self._rounds: dict[int, tuple[int, RoundRecord]] = {}  # latest version last
        self._notes: deque[tuple[int, str]] = deque(maxlen=_NOTES)
        self._run_seq, self._workers_seq = next(self._versions), next(self._versions)
        self._changed = asyncio.Event()
        self._closed = False

    def _ring(self) -> None:
        self._changed.set()
        self._tell()

    def follow(self, view: Callable[[], RunView]) -> None:
        """The run is to be seen elsewhere from now on."""
        self.view = view
        self.run_changed()

    def run_changed(self) -> None:
        self._run_seq = next(self._versions)
        self._ring()

    def workers_changed(self) -> None:
        self._workers_seq = next(self._versions)
        self._ring()

    def round_changed(self, record: RoundRecord) -> None:
        self._rounds.pop(record.round, None)
        self._rounds[record.round] = (next(self._versions), record)
        self._ring()

    def note(self, text: str) -> None:
        self._notes.append((next(self._versions), text))
        self._ring()

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

    def watch(self, seq: int) -> AsyncIterator[bytes]:
        """The stream's bytes from after `seq` until the feed is closed."""

        async def after(seq: int) -> list[Event]:
            return self.after(seq)

        seq = _since(seq, self._versions)
        return _stream(self._clock, self._changed, lambda: self._closed, after, seq, BREATH)


class LabFeed:
    """Of the lab: all runs whenever one is made or ends; rounds and workers of those that have not ended."""

    def __init__(
        self,
        clock: Clock,
        versions: Iterator[int],
        runs: Callable[[], Awaitable[Sequence[RunView]]],
        workers: Callable[[], tuple[WorkerView, ...]],
        feeds: Callable[[], Iterable[Feed]],
    ) -> None:
        self._clock = clock
        self._versions = versions
        self._runs = runs
        self._workers = workers
        self._feeds = feeds
        self._runs_seq, self._workers_seq = next(versions), next(versions)
        self._parted: deque[Feed] = deque(maxlen=_PARTED)
        self._changed = asyncio.Event()
        self._closed = False

    def part(self, feed: Feed) -> None:
        """Its run has ended: who has been watching is told of its last rounds all the same."""
        self._parted.append(feed)
        self.runs_changed()

    def ring(self) -> None:
        """One of the feeds has changed."""
        self._changed.set()

    def runs_changed(self) -> None:
        self._runs_seq = next(self._versions)
        self._changed.set()

    def workers_changed(self) -> None:
        self._workers_seq = next(self._versions)
        self._changed.set()

    def close(self) -> None:
        self._closed = True
        self._changed.set()

    async def after(self, seq: int) -> list[LabEvent]:
        """Everything with a later version than `seq`, oldest first."""
        events: list[LabEvent] = []
        known = self._runs_seq
        if known > seq:
            runs = tuple(await self._runs())
            events.append(LabEvent(seq=known, kind="runs", at=self._clock.wall(), runs=runs))
        workers_seq, at = self._workers_seq, self._clock.wall()
        parted = self._parted if seq else ()  # who is new reads what has ended
        for feed in (*self._feeds(), *parted):
            of = feed.view().id
            for event in feed.after(seq):
                if event.kind == "workers":
                    workers_seq = max(workers_seq, event.seq)
                else:
                    events.append(
                        LabEvent.model_construct(
                            seq=event.seq,
                            kind=event.kind,
                            at=at,
                            of=of,
                            run=event.run,
                            round=event.round,
                            note=event.note,
                        )
                    )
        if workers_seq > seq:
            events.append(LabEvent(seq=workers_seq, kind="workers", at=at, workers=self._workers()))
        if self._runs_seq != known:  # while they were looked up: what came later is told after them
            events = [event for event in events if event.seq < self._runs_seq]
        return sorted(events, key=lambda event: event.seq)

    def watch(self, seq: int) -> AsyncIterator[bytes]:
        """The stream's bytes from after `seq` until the feed is closed."""
        seq = _since(seq, self._versions)
        return _stream(self._clock, self._changed, lambda: self._closed, self.after, seq, LAB_BREATH)


async def _stream(
    clock: Clock,
    changed: asyncio.Event,
    closed: Callable[[], bool],
    after: Callable[[int], Awaitable[Sequence[Event | LabEvent]]],
    seq: int,
    breath: Seconds,
) -> AsyncIterator[bytes]:
    yield b"retry: 1000\n\n"
    while True:
        changed.clear()
        last = closed()
        events = await after(seq)
        if events:
            seq = events[-1].seq
            yield b"".join(_frame(event) for event in events)
        if last:
            return
        if events:
            await _until(clock, asyncio.Event(), breath)
        elif not await _until(clock, changed, HEARTBEAT):
            yield b": still here\n\n"


async def _until(clock: Clock, bell: asyncio.Event, patience: Seconds) -> bool:
    """False where nothing rang for `patience` seconds."""
    rang = True

    def give_up() -> None:
        nonlocal rang
        rang = False
        bell.set()

    timer = clock.call_at(clock.monotonic() + patience, give_up)
    try:
        await bell.wait()
    finally:
        timer.cancel()
    return rang


def _frame(event: Event | LabEvent) -> bytes:
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (
        event.seq,
        event.kind.encode(),
        event.model_dump_json(exclude_none=True).encode(),
    )
