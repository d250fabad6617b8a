"""The driver of the run under way: tells its machine what happened and carries out what it answers, in order.

Everything here runs inside a turn (`turns`), so nothing else changes
meanwhile. What is promised to somebody is in the store first: an order before it is given, an update before
its 2xx. What cannot be written because the disk is full, or fails, pauses the run, and is said again by the
machine when it is resumed.

    event → Rounds.handle → commands → store thread · desk · feed · closing
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

from roundtable.errors import RoundtableError, StorageFull
from roundtable.fleet import Load
from roundtable.messages import Evaluated, RunState
from roundtable.types import Seconds

from aggregator import commit
from aggregator.active import ActiveRun
from aggregator.checks import Checked, CheckedInitial
from aggregator.clock import Clock, Timer
from aggregator.closing import Closing
from aggregator.desk import Desk
from aggregator.events import (
    Accept,
    AcceptAgain,
    BeginRound,
    Close,
    Command,
    End,
    EvaluationArrived,
    Event,
    Give,
    InitializeArrived,
    PauseAsked,
    Pin,
    Place,
    Reject,
    RoundScored,
    Score,
    Show,
    StopAsked,
    TimePassed,
    UpdateArrived,
    Wake,
    Withdraw,
)
from aggregator.logs import note, trouble
from aggregator.rows import Accepted, EvaluationRow, Taken
from aggregator.spool import Room
from aggregator.stopwatch import Stopwatch
from aggregator.store import Store
from aggregator.threads import OneThread, StoreThread
from aggregator.turns import Turns

Arrival = InitializeArrived | UpdateArrived | EvaluationArrived


@dataclass(frozen=True)
class Delivery:
    """A reply to an order, checked: what the machine is told of it, and what goes into the store if it says
    so.
    """

    event: Arrival
    content: Checked | CheckedInitial | Evaluated
    room: Room | None = None  # in the spool


class Conductor:
    """One run, from when it becomes the active one to its end. `ended` is awaited then, inside the turn; it
    raises where the store cannot have it, and the run is paused."""

    def __init__(
        self,
        run: ActiveRun,
        *,
        store: Store,
        storing: StoreThread,
        folding: OneThread,
        turns: Turns,
        desk: Desk,
        clock: Clock,
        ended: Callable[[ActiveRun, End], Awaitable[None]],
    ) -> None:
        self.run = run
        self._store = store
        self._storing = storing
        self._folding = folding
        self._turns = turns
        self._desk = desk
        self._clock = clock
        self._ended = ended
        self._closing = Closing(run, storing, folding, turns, clock, store, self)
        self._wake: Timer | None = None
        self._doomed: str | None = None  # why the run fails for good, found while folding
        self._follow: deque[Event] = deque()

    @property
    def now(self) -> Seconds:
        return self._clock.monotonic()

    def close(self) -> None:
        """When the process ends: what is under way is taken up from the store at its next start."""
        self._set_alarm(None)
        self._closing.cancel()

    # --- turns ----------------------------------------------------------------------------------------------

    async def handle(self, event: Event) -> None:
        """Tell the machine, and do what it says and what follows from that."""
        await self._carry_out(event, None)

    async def deliver(self, delivery: Delivery) -> bool:
        """Whether the same reply was in before. Raises what the machine rejects it with, and StorageFull."""
        delivery = self._stamped(delivery)
        event, run = delivery.event, self.run
        if isinstance(event, UpdateArrived) and event.key.client not in run.machine.arrived:
            run.recording = event.key.client  # not shown as arrived before it would survive a kill
        try:
            answer = await self._carry_out(event, delivery)
        finally:
            run.recording = None
        if isinstance(answer, RoundtableError):
            raise answer
        return isinstance(answer, AcceptAgain)

    def _stamped(self, delivery: Delivery) -> Delivery:
        """By the virtual clock, with when it would have been in."""
        event, content, run = delivery.event, delivery.content, self.run
        fleet, manifest = run.machine.fleet, run.manifest
        if not isinstance(event, UpdateArrived) or not isinstance(content, Checked):
            return delivery
        if fleet is None or not fleet.virtual or manifest is None:
            return delivery
        load = Load.of(run.experiment, manifest, content.account.num_examples)
        arrival = fleet.arrival(event.key.round, event.key.trial, event.key.client, load)
        return replace(delivery, event=replace(event, arrival=arrival))

    async def _carry_out(self, event: Event, delivery: Delivery | None) -> Command | RoundtableError | None:
        answer: Command | RoundtableError | None = None
        self._follow.append(event)
        while self._follow:
            commands = self.run.machine.handle(self._follow.popleft())
            full = await self._perform(commands, delivery)
            if delivery is not None:
                answer = next(
                    (reply for reply in commands if isinstance(reply, Accept | AcceptAgain | Reject)), None
                )
                answer = answer.error if isinstance(answer, Reject) else full or answer
                delivery = None
        return answer

    async def _perform(self, commands: Sequence[Command], delivery: Delivery | None) -> StorageFull | None:
        """Where nothing can be written the machine is told so (through `_follow`), and what matters is
        skipped: it is said again.

        The error where that happened to an Accept.
        """
        rest = deque(commands)
        while rest:
            batch = list(takewhile(lambda command: isinstance(command, BeginRound | Give), rest))
            try:
                if batch:
                    await self._ask(batch)
                else:
                    await self._perform_one(rest[0], delivery)
            except StorageFull as error:
                unrecorded = tuple(command.key for command in rest if isinstance(command, Accept))
                self._follow.append(PauseAsked(how_to_resume(error, self.run.id), self.now, unrecorded))
                for command in rest:
                    if isinstance(command, Withdraw | Reject | AcceptAgain | Wake | End):  # nothing written
                        await self._perform_one(command, delivery)
                return error if unrecorded else None
            except Exception as error:  # the run must say so and not hang
                if isinstance(rest[0], End):
                    raise
                self._doom(error)
                raise
            for _ in range(len(batch) or 1):
                rest.popleft()
        return None

    async def _perform_one(self, command: Command, delivery: Delivery | None) -> None:
        run = self.run
        match command:
            case Accept():
                assert delivery is not None
                await self._accept(delivery)
            case AcceptAgain(key) | Reject(key):
                if delivery is not None:
                    event = delivery.event
                    self._desk.settle(event.worker, key.order_id(run.id, event.attempt))
            case Withdraw(worker, key, attempt):
                self._desk.withdraw(worker, key.order_id(run.id, attempt))
            case Wake(at):
                self._set_alarm(at)
            case Close():
                self._closing.begin(command)
            case Score(round_number):
                record = await self._storing.at_once(commit.score, self._store, run.id, round_number)
                run.tell_round(record)
                self._follow.append(RoundScored(record.round, record.accuracy, self.now))
            case Show(state, reason):
                await self._show(state, reason)
            case Pin(nodes):
                await self._storing.call(self._store.set_pinned, run.id, nodes)
            case Place(homes):
                run.feed.workers_changed()
                await self._storing.call(self._store.place, run.id, homes)
            case End():
                await self._end(command)
            case _:
                raise AssertionError(f"no way to carry out {command!r}")

    # --- orders and replies ---------------------------------------------------------------------------------

    async def _ask(self, commands: Sequence[Command]) -> None:
        """Rounds begun and orders given: recorded in one hop, then given all at once."""
        run, now = self.run, self._clock.wall()
        gives = [command for command in commands if isinstance(command, Give)]
        issued = [(give.key, give.attempt, give.worker) for give in gives]
        rounds = [command for command in commands if isinstance(command, BeginRound)]
        trains = any(give.key.kind == "train" for give in gives)
        first = run.first_order is None and trains
        begun = [(round_.round, round_.trial) for round_ in rounds]
        begun += [(0, 1) for give in gives if give.key.kind == "initialize"]
        if begun and begun[-1][0] != run.begun[0]:  # a deadline that was missed is time that its round took
            run.watch = Stopwatch()
        if begun or trains:
            run.watch.go_on(self.now, now)
        taken = Taken(run.watch.started, run.watch.read(self.now), run.bytes_down)

        def record() -> None:
            with self._store.together():
                for round_ in rounds:
                    self._store.begin_round(run.id, round_.round, round_.trial, round_.cohort, taken)
                if issued:
                    self._store.issue(run.id, issued)
                if first:
                    self._store.set_run_state(run.id, run.shown, run.reason, first_order=now)

        await self._storing.at_once(record)
        if first:
            run.first_order = now
        if begun and begun[-1] != run.begun:
            run.begun = begun[-1]
            run.feed.run_changed()
        for give in gives:
            run.took_part.add(give.worker)
            self._desk.give(give.worker, run.order(give.key, give.attempt))

    async def _accept(self, delivery: Delivery) -> None:
        run, event, content = self.run, delivery.event, delivery.content
        key, taken = event.key, run.watch.read(self.now)

        def record() -> None:
            match content:
                case Checked():
                    assert delivery.room is not None
                    run.files.spool.accept(delivery.room, (key.round, key.trial), key.client, content.digest)
                    self._store.accept_update(
                        run.id,
                        Accepted(
                            round=key.round,
                            trial=key.trial,
                            client=key.client,
                            digest=content.digest,
                            worker=event.worker,
                            attempt=event.attempt,
                            nbytes=content.nbytes,
                            account=content.account,
                            state_digest=content.state_digest,
                            seconds=taken,
                            bytes_down=run.bytes_down,
                        ),
                    )
                case CheckedInitial():
                    assert delivery.room is not None
                    run.files.accept_initial(delivery.room, content.digest)
                    self._store.accept_initial(run.id, content.digest, content.initialized)
                case Evaluated():
                    self._store.accept_evaluation(
                        run.id,
                        EvaluationRow(
                            key.round, key.client, key.shard, event.worker, event.attempt, content, key.trial
                        ),
                    )

        write = self._storing.call if run.files.apart else self._storing.at_once
        await write(record)
        run.recording = None
        if isinstance(content, CheckedInitial):
            run.initialized = content.initialized
            run.describe()
        self._desk.settle(event.worker, key.order_id(run.id, event.attempt))
        run.feed.run_changed()

    def _set_alarm(self, at: Seconds | None) -> None:
        if self._wake is not None:
            self._wake.cancel()
        self._wake = None if at is None else self._clock.call_at(at, self._ring)

    def _ring(self) -> None:
        async def tell() -> None:
            await self.handle(TimePassed(self.now))

        self._turns.post(tell)

    # --- what goes wrong ------------------------------------------------------------------------------------

    async def not_written(self, error: Exception) -> None:
        """An upload, or a round's fold or commit: what lacked space is tried again after a resume."""
        if isinstance(error, StorageFull):
            await self.handle(PauseAsked(how_to_resume(error, self.run.id), self.now))
        else:
            self._doom(error)

    def _doom(self, error: Exception) -> None:
        """The run cannot go on: it fails, in a turn of its own, with what was found."""
        if self._doomed is None:
            trouble("the run cannot go on", error, run=self.run.id)
            self._doomed = str(error) or type(error).__name__
            self._turns.post(self._fail)

    async def _fail(self) -> None:
        reason = self._doomed or ""
        await self.handle(PauseAsked(reason, self.now))  # a commit that will not come need not be waited for
        await self.handle(StopAsked(reason, self.now))

    # --- the run's state ------------------------------------------------------------------------------------

    async def _show(self, state: RunState, reason: str | None) -> None:
        """A store that fails must not keep a run from showing that it is paused."""
        run = self.run
        run.shown, run.reason = state, reason
        if run.paused:
            run.watch.stop(self.now)
        run.feed.run_changed()
        run.points.event("run", state + (f": {reason}" if reason else ""), run.id, run.done)
        note("run " + state, run=run.id, reason=reason, round=run.done)
        try:
            await self._storing.call(self._store.set_run_state, run.id, state, reason)
        except RoundtableError as error:
            trouble("the run's state could not be recorded", run=run.id, state=state, detail=str(error))

    async def _end(self, end: End) -> None:
        self._set_alarm(None)
        if self._doomed is not None:
            end = End("failed", end.round, self._doomed)
        try:
            await self._ended(self.run, end)
        except RoundtableError as error:  # it is said again when the run is resumed
            what = f"{end.state}, but that could not be recorded: {error}"
            await self._show("paused", how_to_resume(what, self.run.id))
            return
        if end.discards:  # before its last round, perhaps: the updates of the next are left
            await self._closing.tidy(over=True)


def how_to_resume(error: StorageFull | str, run: str) -> str:
    return f"{error} (`lab resume {run}`)"
