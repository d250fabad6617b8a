"""The runs of this lab: a queue of which one is active, from the store at the start and into it at each step.

What changes something runs inside a turn; what only reads may be called at any time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timezone

from roundtable.errors import CorruptStore, InvalidInput, NotPossible, StorageFull
from roundtable.messages import ENDED, CreateRun, Order, Plan, RunDetail, RunState, RunView, WorkerView
from roundtable.types import ClientId, RunId

from aggregator import views
from aggregator.active import ActiveRun
from aggregator.archive import Archive
from aggregator.autostart import First
from aggregator.clock import Clock
from aggregator.commit import tidy
from aggregator.conductor import Conductor, how_to_resume
from aggregator.desk import Desk
from aggregator.events import End, Event, ResumeAsked, Started, StopAsked, WorkerArrived
from aggregator.facts import Phase
from aggregator.feed import Feed, LabFeed, numbers
from aggregator.files import RunFiles
from aggregator.gathering import PATIENCE, Gathering
from aggregator.lobby import Lobby
from aggregator.logs import note, trouble
from aggregator.orders import stop_id
from aggregator.points import Points
from aggregator.recover import recover
from aggregator.rounds import Rounds
from aggregator.rows import RunRow
from aggregator.settings import ServiceSettings
from aggregator.soundness import check_run
from aggregator.store import Store
from aggregator.terms import Settings
from aggregator.threads import OneThread, StoreThread
from aggregator.turns import Turns


class Runs:
    def __init__(
        self,
        settings: ServiceSettings,
        clock: Clock,
        turns: Turns,
        desk: Desk,
        points: Points,
        present: Callable[[], Iterable[WorkerArrived]],
        workers: Callable[[], tuple[WorkerView, ...]],
    ) -> None:
        """`present`: a WorkerArrived for everyone who is there, told to each run that begins; `workers`: for
        the eye.
        """
        self._settings = settings
        self._clock = clock
        self._turns = turns
        self._desk = desk
        self._points = points
        self._present = present
        self._workers = workers
        self.storing = StoreThread()
        self.archive = Archive(self.storing, settings)
        self.folding = OneThread("fold")
        self.active: Conductor | None = None
        self._feeds: dict[RunId, Feed] = {}  # of runs that have not ended
        self._held: set[RunId] = set()  # left unfinished: begun once somebody asks for them
        self._versions = numbers(clock)
        self.lab = LabFeed(clock, self._versions, self.views, workers, lambda: self._feeds.values())
        look = lambda: turns.post(self._start_next)  # noqa: E731
        self._lobby = Lobby(self.storing, clock, points, self._feeds, present, look)

    @property
    def store(self) -> Store:
        return self.storing.store

    # --- reading --------------------------------------------------------------------------------------------

    async def views(self) -> list[RunView]:
        """Oldest first."""
        stored, live = await self.archive.views(), self.live
        return [
            views.live_view(live) if live and view.id == live.id else self._lobby.shown(view)
            for view in stored
        ]

    async def view(self, run: RunId) -> RunView:
        """Raises Unknown."""
        live = self._live(run)
        return views.live_view(live) if live else self._lobby.shown(await self.archive.view(run))

    async def detail(self, run: RunId) -> RunDetail:
        """Raises Unknown."""
        live = self._live(run)
        if live is None:
            return self._lobby.shown(await self.archive.detail(run))
        return views.detail(views.live_view(live), live.row, live.records.values())

    async def plan(self, run: RunId) -> Plan:
        """Raises Unknown."""
        live = self._live(run)
        return live.plan if live else await self.archive.plan(run)

    async def feed(self, run: RunId) -> Feed:
        """Of a run that has ended: a feed that says what it came to, and ends. Raises Unknown."""
        if (feed := self._feeds.get(run)) is not None:
            return feed
        detail = await self.detail(run)
        feed = Feed(self._clock, lambda: detail, tuple)
        for record in detail.history:
            feed.round_changed(record)
        feed.run_changed()
        feed.close()
        return feed

    @property
    def live(self) -> ActiveRun | None:
        return self.active.run if self.active else None

    def workers_changed(self) -> None:
        self.lab.workers_changed()
        if self.live is not None:
            self.live.feed.workers_changed()

    def _live(self, run: RunId) -> ActiveRun | None:
        return self.live if self.live is not None and self.live.id == run else None

    # --- turns ----------------------------------------------------------------------------------------------

    async def begin(self, first: First | None = None) -> None:
        """At the start of the process: whatever was under way goes on, unless its workers are gone for good;
        `first`: what is to be run else.
        """
        for row in await self.storing.call(self.store.runs):
            if row.state not in ENDED:
                await self._open_feed(row)
                if not self._settings.workers_outlive_it:
                    self._held.add(row.id)
        if first is not None:
            view, new = await self.create(first.request, first.gathering)
            if not new:
                note("this experiment has a run", run=view.id, state=view.state, round=view.round)
        await self._start_next()

    def release(self) -> None:
        """Send all watchers home."""
        self.lab.close()
        for feed in self._feeds.values():
            feed.close()

    async def close(self) -> None:
        """Outside of turns, when there will be none any more."""
        self._lobby.close()
        if self.active is not None:
            self.active.close()
            self.active = None
        self.folding.close()
        await self.storing.shut()

    async def create(self, request: CreateRun, gathering: Gathering | None = None) -> tuple[RunView, bool]:
        """The run, and whether it is new; it begins when `gathering`, or what is asked for, says so.

        Raises InvalidInput, StorageFull.
        """
        experiment = request.experiment
        _check_participants(request)
        gathering = gathering or _gathering(request.start_workers)
        if not request.again and request.participants is None:
            known = await self.storing.call(self.store.runs_of, experiment.digest)
            if known := [row for row in known if row.participants is None]:
                last = known[-1]
                if last.id in self._held:
                    await self._let_begin(last.id, gathering)
                elif (
                    gathering is not None
                    and last.state in ("queued", "waiting")
                    and (self.live is None or self.live.id != last.id)
                ):
                    self._lobby.expect(last.id, gathering)
                return await self.view(last.id), False
        created = self._clock.wall()
        stamp = datetime.fromtimestamp(created, timezone.utc).strftime("%Y%m%d-%H%M%S")

        def insert() -> RunRow:
            taken = {row.id for row in self.store.runs()}
            names = (
                f"{stamp}-{experiment.name}" + (f"-{number}" if number > 1 else "")
                for number in range(1, 1000)
            )
            name = next(name for name in names if name not in taken)
            return self.store.create_run(
                name,
                experiment,
                created,
                participants=request.participants,
                environment=views.environment(),
            )

        row = await self.storing.call(insert)
        await self._open_feed(row)
        note("run created", run=row.id)
        await self._let_begin(row.id, gathering)
        return await self.view(row.id), True

    async def _let_begin(self, run: RunId, gathering: Gathering | None) -> None:
        """When its turn comes, and those are there whom `gathering` waits for."""
        self._held.discard(run)
        self._lobby.forget(run)
        if gathering is not None:
            self._lobby.expect(run, gathering)
        if self.active is None:
            await self._start_next()

    async def stop(self, run: RunId) -> RunView:
        """Raises Unknown; NotPossible for one that is over; StorageFull where it cannot be recorded."""
        view = await self.view(run)
        if view.state in ENDED:
            raise NotPossible(f"run {run} has {view.state} already: there is nothing to stop")
        if self.active is not None and self.active.run.id == run:
            conductor, machine = self.active, self.active.run.machine
            over = machine.phase is Phase.ENDED  # but the store does not have that yet
            now = conductor.now
            await conductor.handle(ResumeAsked(now) if over else StopAsked("stopped by hand", now))
            if self.active is conductor and machine.phase is Phase.ENDED:
                raise StorageFull(conductor.run.reason or "")
        else:
            begun = "" if view.first_order is not None else " before it began"
            await self._record_end(run, "stopped", "stopped by hand" + begun)
            self._held.discard(run)
            self._lobby.forget(run)
            await self._start_next()
        return await self.view(run)

    async def resume(self, run: RunId, start_workers: int | None = None) -> RunView:
        """Raises Unknown, NotPossible."""
        view = await self.view(run)
        if view.state == "finished":
            raise NotPossible(f"run {run} has finished: start it anew with `lab run --again`")
        if self.active is not None and self.active.run.id == run:
            if view.state != "paused":
                raise NotPossible(f"run {run} is under way: it needs no resuming")
            await self.active.handle(ResumeAsked(self.active.now))
        elif view.state in ENDED:
            await self.storing.call(self.store.set_run_state, run, "queued")
            await self._open_feed(await self.storing.call(self.store.run, run))
            await self._let_begin(run, _gathering(start_workers))
        elif self.active is None or run in self._held:  # or no room to begin, or it is to wait no longer
            await self._let_begin(run, _gathering(start_workers))
        else:
            raise NotPossible(f"run {run} is {view.state}: its turn comes when the run before it has ended")
        return await self.view(run)

    async def tell(self, event: Event) -> None:
        """Workers that came or went: to the active run, or to one that waits for them to begin."""
        if self.active is not None:
            await self.active.handle(event)
        elif not self._lobby.empty:
            await self._start_next()

    async def no_room(self, error: StorageFull) -> None:
        """A worker could not join for want of space: a run that waits for workers says so until one can."""
        self._lobby.no_room = f"no worker can join: {error}: free some, they try again"
        if self.live is not None:
            self._tell_no_room(self.live)
        elif not self._lobby.empty:
            await self._start_next()

    def room(self) -> None:
        """A worker could join: who comes is told with `tell`."""
        if self._lobby.no_room is not None:
            self._lobby.no_room = None
            if self.live is not None:
                self._tell_no_room(self.live)

    def _tell_no_room(self, live: ActiveRun) -> None:
        reason = self._lobby.no_room or live.machine.reason
        if live.shown == "waiting" and live.reason != reason:
            live.reason = reason
            live.feed.run_changed()
            note("run waiting", run=live.id, reason=reason)

    async def not_written(self, run: RunId, error: StorageFull | CorruptStore) -> None:
        """An upload to it could not be."""
        if self.active is not None and self.active.run.id == run:
            await self.active.not_written(error)

    async def _start_next(self) -> None:
        """The run that was under way when the process last ended, else the oldest in the queue."""
        while self.active is None:
            rows = await self.storing.call(self.store.runs)
            rows = [row for row in rows if row.state not in ENDED and row.id not in self._held]
            if not rows:
                return
            row = min(rows, key=lambda row: row.state == "queued")
            if not await self._lobby.gathered(row.id):
                return
            try:
                try:
                    await self._start(row.id)
                except (CorruptStore, OSError) as error:
                    if self.active is not None:  # it has begun, and fails by itself
                        return
                    trouble("a run cannot go on", run=row.id, detail=str(error))
                    await self._record_end(row.id, "failed", str(error))
            except StorageFull as error:
                trouble("a run cannot begin", run=row.id, detail=str(error))
                self._feeds[row.id].note(how_to_resume(error, row.id))
                return

    async def _start(self, run: RunId) -> None:
        experiment = (await self.storing.call(self.store.run, run)).experiment
        files = RunFiles(
            self._settings.state_dir,
            run,
            spool_dir=self._settings.spool_dir,
            durability=experiment.keep.durability,
        )

        def prepare() -> list[ClientId]:
            self.store.set_durability(experiment.keep.durability)
            files.prepare()
            tidy(self.store, files, run, starting=True)
            return check_run(self.store, files, run)

        forgotten = await self.storing.call(prepare)
        if forgotten:
            note("damaged updates are asked for again", run=run, clients=forgotten)
        known = await self.storing.call(recover, self.store, run)
        machine = Rounds(Settings.of(run, experiment, known.row.participants), known.recovered)
        self.active = Conductor(
            ActiveRun.of(known, files, machine, self._feeds[run], self._points),
            store=self.store,
            storing=self.storing,
            folding=self.folding,
            turns=self._turns,
            desk=self._desk,
            clock=self._clock,
            ended=self._ended,
        )
        conductor = self.active
        feed = self._feeds[run]
        feed.follow(lambda: views.live_view(conductor.run))
        for commit in known.commits:
            feed.round_changed(commit.record)
        note(
            "run begins", run=run, committed=known.recovered.committed, accepted=len(known.recovered.accepted)
        )
        for event in self._present():
            await conductor.handle(event)
        await conductor.handle(Started(conductor.now))

    async def _ended(self, run: ActiveRun, end: End) -> None:
        await self._record_end(run.id, end.state, end.reason, discard=end.discards)
        self.active = None
        note("run " + end.state, run=run.id, reason=end.reason, round=end.round)
        self._points.event("run", f"{end.state}: {end.reason}", run.id, max(end.round, 0))
        last = max(end.round, 0)
        stop = Order(id=stop_id(run.id, last), kind="stop", run=run.id, round=last, head=run.head)
        for worker in run.took_part & {arrived.worker for arrived in self._present()}:
            self._desk.give(worker, stop)
        await self.folding.call(run.files.let_go)
        self._turns.post(self._start_next)

    async def _record_end(self, run: RunId, state: RunState, reason: str, discard: bool = False) -> None:
        """Raises StorageFull, CorruptStore, and the run is as it was."""
        ended = self._clock.wall()

        def record() -> None:
            if discard:  # a round that was begun but will never be gone on with
                self.store.discard_open_round(run)
            self.store.set_run_state(run, state, reason, ended=ended)

        await self.storing.call(record)
        feed = self._feeds.pop(run)
        last = feed.view()
        feed.follow(lambda: last.model_copy(update={"state": state, "reason": reason, "ended": ended}))
        feed.run_changed()
        feed.close()
        self.lab.part(feed)

    async def _open_feed(self, row: RunRow) -> None:
        view = await self.storing.call(self.archive.stored, row)
        self._feeds[row.id] = Feed(
            self._clock, lambda: view, self._workers, self._versions, changed=self.lab.ring
        )
        self.lab.runs_changed()


def _gathering(workers: int | None) -> Gathering | None:
    return None if workers is None else Gathering(workers, patience=PATIENCE)


def _check_participants(request: CreateRun) -> None:
    """Of a replay: others would be waited for without end. Raises InvalidInput."""
    count = request.experiment.clients.count
    for number, clients in enumerate(request.participants or (), 1):
        if not clients or len(set(clients)) < len(clients) or not 0 <= min(clients) <= max(clients) < count:
            raise InvalidInput(
                f"participants: round {number} is {list(clients)!s:.60}; allowed: at least one client, each"
                f" once, of 0 … {count - 1} (clients.count = {count})"
            )
