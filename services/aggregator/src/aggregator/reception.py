"""Where workers are met: join, poll, leave, and the loss of those that fall silent.

Changes are told to the store and to the active run inside a turn; a poll that changes nothing takes none.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator
from typing import Final

from roundtable.errors import NotPossible, RoundtableError, StorageFull, Unauthorized
from roundtable.messages import Join, Joined, Poll, PollReply, WorkerView
from roundtable.types import Seconds, WorkerId

from aggregator import views
from aggregator.clock import Clock, Timer
from aggregator.desk import NOTHING, Desk
from aggregator.events import WorkerArrived, WorkerGone
from aggregator.logs import note, trouble
from aggregator.points import Points
from aggregator.rows import WorkerRow
from aggregator.runs import Runs
from aggregator.settings import ServiceSettings
from aggregator.tokens import Tokens
from aggregator.turns import Turns
from aggregator.workers import State, Worker, Workers

QUIET: Final[Seconds] = 60.0


class Reception:
    def __init__(
        self,
        settings: ServiceSettings,
        clock: Clock,
        turns: Turns,
        desk: Desk,
        tokens: Tokens,
        points: Points,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._turns = turns
        self._desk = desk
        self._tokens = tokens
        self._points = points
        self._workers = Workers(clock, settings.lost_after)
        self._check: Timer | None = None
        self._refused: dict[tuple[str, str], Seconds] = {}  # (peer, reason) → when it was told
        self.runs: Runs

    async def begin(self) -> None:
        """Workers that were there when the process last ended are expected back: they get `lost_after` for
        it; unless they went with it.
        """
        for row in await self.runs.storing.call(self.runs.store.workers):
            gone = row.state == "present" and not self._settings.workers_outlive_it
            self._workers.remember(row.id, row.join, "lost" if gone else row.state)
        self._watch()

    # --- views ----------------------------------------------------------------------------------------------

    def present(self) -> Iterator[WorkerArrived]:
        now = self._clock.monotonic()
        return (WorkerArrived(row.id, row.node, row.pinned, now) for row in self._workers.present)

    def views(self) -> tuple[WorkerView, ...]:
        live = self.runs.live
        homes = live.machine.homes if live else {}
        now = self._clock.monotonic()
        return tuple(views.worker_view(row, homes, now) for row in self._workers.rows.values())

    # --- requests -------------------------------------------------------------------------------------------

    async def join(self, join: Join) -> Joined:
        """Raises NotPossible, StorageFull. The version is checked before (workers.check_version)."""
        if join.trouble is not None:
            raise NotPossible(f"node {join.node} cannot take part: {join.trouble}")

        async def admit() -> Worker:
            row = self._workers.admit(join)
            if row.state != "present":
                await self._arrive(row)
            return row

        row = await self._turns.submit(admit)
        now = self._clock.wall()
        warnings = self._workers.doubts(row, now)
        for text in warnings:
            trouble("a node should be looked at", worker=row.id, node=row.node, host=join.host, detail=text)
        return Joined(
            worker=row.id,
            session_token=self._tokens.session(row.id),
            lost_after=self._settings.lost_after,
            poll_seconds=self._settings.poll_seconds,
            time=now,
            warnings=warnings,
        )

    def refuse(self, peer: str, error: RoundtableError) -> None:
        """Say that somebody could not join, and why; for the same reason once a minute, however often they
        try."""
        reason, now = (peer, re.sub(r"\d+", "", str(error))), self._clock.monotonic()
        if now - self._refused.get(reason, -QUIET) < QUIET:
            return
        if len(self._refused) >= 1024:
            self._refused.clear()
        self._refused[reason] = now
        trouble("join refused", peer=peer, detail=str(error))

    def known(self, authorization: str | None) -> WorkerId:
        """Whose session token this is. Raises Unauthorized."""
        worker = self._tokens.worker_of(authorization)
        if worker not in self._workers.rows:
            raise Unauthorized(f"worker {worker} is not known here: join again")
        return worker

    async def poll(self, worker: WorkerId, poll: Poll, gone: Callable[[], Awaitable[object]]) -> PollReply:
        """`gone` returns when the poll's connection is closed. Raises Unauthorized for one that has left."""
        row = self._workers[worker]
        if row.state == "left":
            raise Unauthorized(f"worker {worker} has left: join again")
        if self._workers.hear(row, poll):
            self.runs.workers_changed()
        if row.state == "lost":
            await self._turns.submit(lambda: self._come_back(row))
        difference = self._desk.difference(worker, poll.holding)
        if difference == NOTHING:
            bell = asyncio.Event()
            watcher = asyncio.ensure_future(_ring_when(gone, bell))
            row.polls += 1
            try:
                latest = await self._desk.wait(worker, bell, self._settings.poll_seconds)
            finally:
                row.polls -= 1
                row.heard = self._clock.monotonic()
                watcher.cancel()
            if latest:
                difference = self._desk.difference(worker, poll.holding)
        live = self.runs.live
        return PollReply.model_construct(
            give=difference[0], cancel=difference[1], head=live.head if live else None
        )

    async def leave(self, worker: WorkerId) -> None:
        async def go() -> None:
            row = self._workers[worker]
            if row.state == "present":
                await self._go(row, "left")

        await self._turns.submit(go)

    # --- turns ----------------------------------------------------------------------------------------------

    async def _come_back(self, row: Worker) -> None:
        if row.state == "lost":
            await self._arrive(row)

    async def _arrive(self, row: Worker) -> None:
        try:
            await self.runs.storing.call(self.runs.store.put_worker, WorkerRow(row.id, row.join, "present"))
        except StorageFull as error:
            await self.runs.no_room(error)
            raise
        self.runs.room()
        row.state, row.heard = "present", self._clock.monotonic()
        note("worker is there", worker=row.id, host=row.join.host, node=row.node)
        self._tell(row)
        if self._check is None:
            self._watch()
        await self.runs.tell(WorkerArrived(row.id, row.node, row.pinned, row.heard))
        self.runs.workers_changed()

    async def _go(self, row: Worker, state: State) -> None:
        try:
            await self.runs.storing.call(self.runs.store.put_worker, WorkerRow(row.id, row.join, state))
        except StorageFull as error:  # only the next start of the aggregator would have known by it
            trouble("a worker's state could not be recorded", worker=row.id, state=state, detail=str(error))
        row.state = state
        self._desk.clear(row.id)
        self._desk.dismiss(row.id)
        note("worker " + state, worker=row.id, host=row.join.host, node=row.node)
        self._tell(row)
        await self.runs.tell(WorkerGone(row.id, self._clock.monotonic(), lost=state == "lost"))
        self.runs.workers_changed()

    def _tell(self, row: Worker) -> None:
        live = self.runs.live
        state = "is there" if row.state == "present" else row.state
        where = row.join.host if row.node == row.join.host else f"{row.node}, {row.join.host}"
        text = f"worker {row.id} {state} ({where})"
        self._points.event("worker", text, live.id if live else None, live.done if live else 0)

    # --- silence --------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """One timer, for whoever could be lost first; polls meanwhile do not touch it."""
        due = self._workers.next_check()
        self._check = (
            None if due is None else self._clock.call_at(due, lambda: self._turns.post(self._let_go))
        )

    async def _let_go(self) -> None:
        for row in self._workers.silent():
            await self._go(row, "lost")
        self._watch()


async def _ring_when(gone: Callable[[], Awaitable[object]], bell: asyncio.Event) -> None:
    await gone()
    bell.set()
