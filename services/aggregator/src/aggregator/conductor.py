"""The driver of the run under way: tells its machine what happened and carries out what it answers, in order.

Everything but the fold itself (`close_round`) runs inside a turn (`turns`), so nothing else changes
meanwhile. What is promised to somebody is in the store first: an order before it is given, an update before
its 2xx. What cannot be written because the disk is full pauses the run, and is said again by the machine when
it is resumed.

    turn      event → Rounds.handle → commands → store thread / desk / feed
    Close     fold thread, beside the turns, then a turn of its own for the commit
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from roundtable.errors import RoundtableError, StorageFull
from roundtable.messages import Evaluated
from roundtable.types import Seconds

from aggregator import commit
from aggregator.active import ActiveRun
from aggregator.checks import Checked, CheckedInitial
from aggregator.clock import Clock, Timer
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
    RoundCommitted,
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
from aggregator.recover import seen
from aggregator.rounds import Phase
from aggregator.rows import Accepted, EvaluationRow
from aggregator.store import Store
from aggregator.threads import OneThread
from aggregator.turns import Turns

Arrival = InitializeArrived | UpdateArrived | EvaluationArrived


@dataclass(frozen=True)
class Delivery:
    """A reply to an order, checked: what the machine is told of it, and what goes into the store if it says
    so.
    """

    event: Arrival
    content: Checked | CheckedInitial | Evaluated
    part: Path | None = None  # in the spool


class Conductor:
    """One run, from when it becomes the active one to its end. `ended` is awaited then, inside the turn."""

    def __init__(
        self,
        run: ActiveRun,
        *,
        store: Store,
        storing: OneThread,
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
        self._wake: Timer | None = None
        self._doomed: str | None = None  # why the run fails for good, found while folding
        self._follow: deque[Event] = deque()

    @property
    def now(self) -> Seconds:
        return self._clock.monotonic()

    def close(self) -> None:
        """When the process ends: what is under way is taken up from the store at its next start."""
        self._set_alarm(None)
        for task in (self.run.closing, self.run.tidying):
            if task is not None:
                task.cancel()

    # --- turns ----------------------------------------------------------------------------------------------

    async def handle(self, event: Event) -> None:
        """Tell the machine, and do what it says and what follows from that."""
        await self._carry_out(event, None)

    async def deliver(self, delivery: Delivery) -> bool:
        """Whether the same reply was in before. Raises what the machine rejects it with, and StorageFull."""
        answer = await self._carry_out(delivery.event, delivery)
        if isinstance(answer, RoundtableError):
            raise answer
        return isinstance(answer, AcceptAgain)

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
        """Where the disk is full the machine is told so (through `_follow`), and what matters is skipped: it
        is said again.

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
                self._begin_closing(command)
            case Score(round_number):
                record = await self._storing.call(commit.score, self._store, run.id, round_number)
                run.records[record.round] = record
                run.feed.round_changed(record)
                self._follow.append(RoundScored(record.round, record.accuracy, self.now))
            case Show(state, reason):
                run.shown, run.reason = state, reason
                run.feed.run_changed()
                note("run " + state, run=run.id, reason=reason, round=run.done)
                await self._record_state()
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
        first = run.first_order is None and any(give.key.kind == "train" for give in gives)

        def record() -> None:
            for round_ in rounds:
                self._store.begin_round(run.id, round_.round, round_.trial, round_.cohort, now)
            if issued:
                self._store.issue(run.id, issued)
            if first:
                self._store.set_run_state(run.id, run.shown, run.reason, first_order=now)

        await self._storing.call(record)
        if first:
            run.first_order = now
        begun = [(round_.round, round_.trial) for round_ in rounds]
        begun += [(0, 1) for give in gives if give.key.kind == "initialize"]
        if begun and begun[-1] != run.begun:
            run.started, run.begun = now, begun[-1]
            run.feed.run_changed()
        for give in gives:
            run.took_part.add(give.worker)
            self._desk.give(give.worker, run.order(give.key, give.attempt))

    async def _accept(self, delivery: Delivery) -> None:
        run, event, content = self.run, delivery.event, delivery.content
        key, now = event.key, self._clock.wall()

        def record() -> None:
            match content:
                case Checked():
                    assert delivery.part is not None
                    run.files.accept_update(delivery.part, key.round, key.trial, key.client, content.digest)
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
                            received=now,
                        ),
                    )
                case CheckedInitial():
                    assert delivery.part is not None
                    run.files.accept_initial(delivery.part, content.digest)
                    self._store.accept_initial(run.id, content.digest, content.initialized)
                case Evaluated():
                    self._store.accept_evaluation(
                        run.id,
                        EvaluationRow(
                            key.round, key.client, key.shard, event.worker, event.attempt, content, key.trial
                        ),
                    )

        await self._storing.call(record)
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

    # --- closing a round ------------------------------------------------------------------------------------

    def _begin_closing(self, close: Close) -> None:
        if self.run.closing is None:  # else it is said again while it is being carried out
            self.run.closing = asyncio.get_running_loop().create_task(
                self.close_round(close, self._clock.wall())
            )

    async def close_round(self, close: Close, began: Seconds) -> None:
        """Fold beside the turns; commit in a turn."""
        run = self.run
        try:
            if run.tidying is not None:
                await run.tidying  # else it would take this round's files for left-overs of the last
            closing = await self._storing.call(commit.plan_round, self._store, run.files, run.id, close)
            outcome = await self._folding.call(commit.carry_out, run.files, closing)
        except Exception as error:  # noqa: BLE001 -- the run must say so and not hang
            fault = error
            await self._turns.submit(lambda: self._not_closed(fault))
            return
        await self._turns.submit(lambda: self._commit(closing, outcome, began))

    async def _commit(self, closing: commit.Closing, outcome: commit.Outcome, began: Seconds) -> None:
        run, close = self.run, closing.close
        if run.machine.phase is Phase.ENDED:
            run.closing = None
            return
        times = commit.Times(run.started, began, self._clock.wall())
        try:
            record = await self._storing.call(
                commit.commit_round, self._store, closing, outcome, times, bytes_down=run.bytes_down
            )
        except Exception as error:  # noqa: BLE001 -- as above
            await self._not_closed(error)
            return
        run.closing = None
        run.committed(record, outcome.folded.message, dict(outcome.states))
        run.feed.round_changed(record)
        run.feed.run_changed()
        accounts = {client: seen(close.round, update.account) for client, update in closing.accepted.items()}
        await self.handle(RoundCommitted(close.round, self.now, accounts))
        run.tidying = asyncio.get_running_loop().create_task(self._tidy())

    async def _not_closed(self, error: Exception) -> None:
        self.run.closing = None
        if isinstance(error, StorageFull):
            await self.handle(PauseAsked(how_to_resume(error, self.run.id), self.now))
        else:
            self._doom(error)

    def _doom(self, error: Exception) -> None:
        """The run cannot go on: it fails, in a turn of its own, with what was found."""
        trouble("the run cannot go on", error, run=self.run.id)
        if self._doomed is None:
            self._doomed = str(error) or type(error).__name__
            self._turns.post(self._fail)

    async def _fail(self) -> None:
        reason = self._doomed or ""
        await self.handle(PauseAsked(reason, self.now))  # a commit that will not come need not be waited for
        await self.handle(StopAsked(reason, self.now))

    async def _tidy(self) -> None:
        """Files that nothing names go, beside the turns; where that fails they stay until the next time."""
        run = self.run
        try:
            wanted = await self._storing.call(self._store.wanted, run.id)
            await self._folding.call(run.files.tidy, wanted)
        except (RoundtableError, OSError) as error:
            trouble("files that are not needed could not be removed", run=run.id, detail=str(error))

    # --- the run's state ------------------------------------------------------------------------------------

    async def _record_state(self) -> None:
        """For lists and the next start; a full disk must not keep a run from showing that it is paused."""
        run = self.run
        try:
            await self._storing.call(self._store.set_run_state, run.id, run.shown, run.reason)
        except StorageFull:
            trouble("the run's state could not be recorded", run=run.id, state=run.shown)

    async def _end(self, end: End) -> None:
        self._set_alarm(None)
        if self._doomed is not None:
            end = End("failed", end.round, self._doomed)
        await self._ended(self.run, end)


def how_to_resume(error: StorageFull, run: str) -> str:
    return f"{error} (`lab resume {run}`)"
