"""Where a run waits for workers before it begins: what it waits for shows, and is looked at again in time.

`gathering` says whether it may begin; `runs` has the queue, and asks for the run whose turn it is. Inside a
turn, but for `shown`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from roundtable.errors import StorageFull
from roundtable.messages import RunView
from roundtable.types import RunId, Seconds

from aggregator.clock import Clock, Timer
from aggregator.events import WorkerArrived
from aggregator.feed import Feed
from aggregator.gathering import Gathering
from aggregator.logs import note, trouble
from aggregator.points import Points
from aggregator.threads import StoreThread

V = TypeVar("V", bound=RunView)


class Lobby:
    def __init__(
        self,
        storing: StoreThread,
        clock: Clock,
        points: Points,
        feeds: Mapping[RunId, Feed],
        present: Callable[[], Iterable[WorkerArrived]],
        look: Callable[[], None],
    ) -> None:
        """`look`: called when it is time to look at the run whose turn it is again."""
        self._storing = storing
        self._clock = clock
        self._points = points
        self._feeds = feeds
        self._present = present
        self._look = look
        self._gatherings: dict[RunId, Gathering] = {}
        self._alarm: Timer | None = None
        self.no_room: str | None = None  # why nobody can join

    def close(self) -> None:
        """Nobody is to look any more."""
        self._set_alarm(None)

    @property
    def empty(self) -> bool:
        return not self._gatherings

    def expect(self, run: RunId, gathering: Gathering) -> None:
        self._gatherings[run] = gathering

    def forget(self, run: RunId) -> None:
        """It is not to wait, or not any longer."""
        self._gatherings.pop(run, None)

    def shown(self, view: V) -> V:
        """The run as it is shown while it waits: the disk may be too full to record that."""
        if view.id not in self._gatherings:
            return view
        shown = self._feeds[view.id].view()
        return view.model_copy(update={"state": shown.state, "reason": shown.reason})

    async def gathered(self, run: RunId) -> bool:
        """Whether the run may begin; else what it waits for is shown, and looked at again in time."""
        self._set_alarm(None)
        gathering = self._gatherings.get(run)
        if gathering is None:
            return True
        now = self._clock.monotonic()
        due = gathering.look((arrived.worker for arrived in self._present()), now)
        if due is not None and due <= now:
            self.forget(run)
            return True
        self._set_alarm(due)
        reason, shown = self.no_room or gathering.reason(), self._feeds[run].view()
        if (shown.state, shown.reason) != ("waiting", reason):
            await self._show(run, reason)
        return False

    async def _show(self, run: RunId, reason: str) -> None:
        note("run waiting", run=run, reason=reason)
        self._points.event("run", f"waiting: {reason}", run)
        last = self._feeds[run].view()
        self._feeds[run].follow(lambda: last.model_copy(update={"state": "waiting", "reason": reason}))
        try:
            await self._storing.call(self._storing.store.set_run_state, run, "waiting", reason)
        except StorageFull as error:  # it is shown all the same
            trouble("the run's state could not be recorded", run=run, state="waiting", detail=str(error))

    def _set_alarm(self, at: Seconds | None) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = None if at is None else self._clock.call_at(at, self._look)
