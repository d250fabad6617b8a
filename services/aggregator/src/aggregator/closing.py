"""Carrying out Close: the fold beside the turns, the commit in a turn, and then the files that are done with.

One round at a time, and a fold begins only when the files of the round before are tidied: else it could take
what the fold has just written for left-overs.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from roundtable.errors import RoundtableError
from roundtable.types import Seconds

from aggregator import commit
from aggregator.active import ActiveRun
from aggregator.clock import Clock
from aggregator.events import Close, Event, RoundCommitted
from aggregator.facts import Phase
from aggregator.logs import trouble
from aggregator.recover import seen
from aggregator.rows import RunRow
from aggregator.store import Store
from aggregator.threads import OneThread, StoreThread
from aggregator.turns import Turns

FEW: Final = 64  # participants, whose rows are read and written at once
SMALL: Final = 8 << 20  # bytes; a round of so many in all is closed at once, in a few milliseconds


class Driver(Protocol):
    """Who is told what came of it, inside a turn."""

    async def handle(self, event: Event) -> None: ...

    async def not_written(self, error: Exception) -> None: ...


class Closing:
    def __init__(
        self,
        run: ActiveRun,
        storing: StoreThread,
        folding: OneThread,
        turns: Turns,
        clock: Clock,
        store: Store,
        driver: Driver,
    ) -> None:
        self._run = run
        self._storing = storing
        self._folding = folding
        self._turns = turns
        self._clock = clock
        self._store = store
        self._driver = driver
        self._task: asyncio.Task[None] | None = None
        self._tidying: asyncio.Task[None] | None = None
        self._row: RunRow | None = None
        self._small = False  # the round that is closed, or was last

    def begin(self, close: Close) -> None:
        """Said again while it is being carried out, it changes nothing."""
        if self._task is None:
            watch, now = self._run.watch, self._clock.monotonic()
            watch.go_on(now, self._clock.wall())
            self._task = asyncio.get_running_loop().create_task(self._fold(close, watch.read(now)))

    def cancel(self) -> None:
        for task in (self._task, self._tidying):
            if task is not None:
                task.cancel()

    async def _fold(self, close: Close, clients: Seconds) -> None:
        run = self._run
        try:
            if self._tidying is not None:
                await self._tidying
            read = self._storing.at_once if len(close.participants) <= FEW else self._storing.call
            if self._row is None:  # what matters here stays as it is once the first weights are in
                self._row = await self._storing.at_once(self._store.run, run.id)
            planned = await read(commit.plan_round, self._store, run.files, self._row, close)
            self._small = planned.nbytes <= SMALL and not self._storing.store.waits_for_disk
            if self._small:
                outcome = commit.carry_out(run.files, planned)
            else:
                outcome = await self._folding.call(commit.carry_out, run.files, planned)
        except Exception as error:  # noqa: BLE001 -- the run must say so and not hang
            fault = error
            await self._turns.submit(lambda: self._failed(fault))
            return
        await self._turns.submit(lambda: self._commit(planned, outcome, clients))

    async def _commit(self, planned: commit.Closing, outcome: commit.Outcome, clients: Seconds) -> None:
        run, close = self._run, planned.close
        if run.machine.phase is Phase.ENDED:  # stopped meanwhile: a resume closes the round anew
            self._task = None
            return
        clock, watch = self._clock, run.watch
        times = commit.Times(watch.started, clock.wall(), clients, watch.read(clock.monotonic()))
        try:
            write = self._storing.at_once if len(close.participants) <= FEW else self._storing.call
            record = await write(
                commit.commit_round, self._store, planned, outcome, times, bytes_down=run.bytes_down
            )
        except Exception as error:  # noqa: BLE001 -- as above
            await self._failed(error)
            return
        self._task = None
        run.committed(record, outcome.folded.message, dict(outcome.states))
        run.feed.run_changed()
        accounts = {client: seen(close.round, update.account) for client, update in planned.accepted.items()}
        await self._driver.handle(RoundCommitted(close.round, self._clock.monotonic(), accounts))
        self._tidying = asyncio.get_running_loop().create_task(self.tidy())

    async def _failed(self, error: Exception) -> None:
        self._task = None
        await self._driver.not_written(error)

    async def tidy(self, *, over: bool = False) -> None:
        """`over`: no update that is not committed will be. Where it fails, what is not needed stays until the
        next time."""
        run = self._run
        try:
            wanted = await self._storing.at_once(self._store.wanted, run.id, run.experiment.keep)
            # Beside the event loop, however little it is: removing a file may wait for the disk.
            await self._folding.call(run.files.tidy, wanted, starting=over)
        except (RoundtableError, OSError) as error:
            trouble("files that are not needed could not be removed", run=run.id, detail=str(error))
