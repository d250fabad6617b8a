"""The round, as a pure state machine: events in, commands out, nothing else.

No clock, no asyncio, no I/O and no chance but the strategy's seeded sampler: the same events give the same
commands. Time arrives in events; the driver (`conductor`) carries the commands out, in order, and reports
what came of them. `book` keeps the open orders, `staff` who is there, `dealing` brings them together.

    CREATED ─Started─▶ GATHERING ─a worker─▶ INITIALIZING ─reply─▶ HOLDING(0) ──────────────▶ CLOSING(0)
                         ▲ ▲ │                                                                    │
                         │ └─│───────────────────────── RoundCommitted(r), r < last ──────────────┤
        deadline missed: │   │ enough eligible clients:                                           │
          another sample │   ▼ sample                                                             │
                       TRAINING(r) ─enough updates─▶ HOLDING(r) ─r-1 scored─▶ CLOSING(r) ─────────┤
                                                                                                  │
                                         ENDED ◀─RoundScored─ SCORING ◀─ RoundCommitted(last) ────┘

GATHERING     what comes next needs workers: any one to make the first weights, enough eligible clients for a
              cohort, and, once, all nodes of a pinned run. Usually passed through within one event.
INITIALIZING  one worker makes the first weights; Close(0) keeps them.
TRAINING      the cohort's updates come in. It ends when the cohort's size is in (the rest are withdrawn, and
              stale when they come), or at the deadline with the quorum in. Below the quorum all are withdrawn
              and a new sample is asked, `retries` times; then the run fails.
HOLDING       the cohort is cut, but the round before is perhaps still being evaluated: if that meets a stop
              condition, the run ends with its weights and this round is discarded. So Close(r) is only said
              once r-1 is scored.
CLOSING       the driver folds and commits. Then the cohort of r+1 and the evaluations of r are given at once.
SCORING       all rounds are committed, the evaluation of the last is awaited.

From every phase but CREATED: PauseAsked leads to PAUSED and ResumeAsked back, all commands that may not have
been carried out being said again; StopAsked, the stop conditions and what cannot be helped lead to ENDED. In
CLOSING a stop waits for the commit.

Orders. What is wanted is a set of keys. After each event whatever nobody present holds is given: to the
worker that had it last under the same attempt (it came back), else to another under the next. So a lost
worker, a refusal, a failure and a restart are one case. A key that fails FAILED_ATTEMPTS times fails the run;
a worker that refuses is unfit, and gets nothing of this run until it arrives again.

Waiting is not a phase but a condition that any phase can be in: something is wanted, nobody who could do it
is there, and without it the phase cannot end. It shows (Show "waiting", with the reason), it has its time
(Wake), after which the run fails naming the remedy, and the arrival of a worker ends it; the round goes on
where it was, its deadline anew.

The virtual clock (`machines.clock`). A round then takes in every update that its cohort's machines do not
lose, each with the time at which it would have been in. Once all are there `_play` lets them come in that
order, under the rules above; no deadline is waited for. Waiting for workers is real all the same.

Every handler changes the facts and then calls `_go_on`, which does whatever the facts allow by now.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, Literal, TypeAlias

from roundtable.errors import AlreadyAccepted, IllegalTransition, NotAsked, Stale, StorageFull
from roundtable.fleet import LOOKS, Fleet, play
from roundtable.messages import RunState
from roundtable.types import ClientId, Digest, Seconds, WorkerId

from aggregator.book import Book
from aggregator.dealing import deal
from aggregator.events import (
    Accept,
    AcceptAgain,
    BeginRound,
    Close,
    Command,
    End,
    EvaluationArrived,
    Event,
    InitializeArrived,
    Key,
    OrderFailed,
    PauseAsked,
    Pin,
    Place,
    Reject,
    ResumeAsked,
    RoundCommitted,
    RoundScored,
    Score,
    Show,
    Started,
    StopAsked,
    TimePassed,
    UpdateArrived,
    Wake,
    WorkerArrived,
    WorkerGone,
)
from aggregator.staff import Staff
from aggregator.terms import Issued, Recovered, Settings

__all__ = ["TRANSITIONS", "Issued", "Phase", "Recovered", "Rounds", "Settings"]

FAILED_ATTEMPTS: Final = 3  # of one order, before the run fails

Reply: TypeAlias = InitializeArrived | UpdateArrived | EvaluationArrived


class Phase(Enum):
    CREATED = "created"
    GATHERING = "gathering"
    INITIALIZING = "initializing"
    TRAINING = "training"
    HOLDING = "holding"
    CLOSING = "closing"
    SCORING = "scoring"
    PAUSED = "paused"
    ENDED = "ended"


@dataclass
class Under:
    """The round under way."""

    number: int
    trial: int = 1
    cohort: tuple[ClientId, ...] = ()  # who is asked; empty until it begins
    accepted: dict[ClientId, Digest] = field(default_factory=dict)
    lost: int = 0  # orders that had to be issued again
    deadline_at: Seconds | None = None
    # virtual clock
    coming: int = 0  # how many of the cohort's updates do not get lost
    arrivals: dict[ClientId, Seconds] = field(default_factory=dict)  # when they would have been in
    counted: tuple[ClientId, ...] = ()  # once the cohort is cut: who of those accepted was in by then
    seconds: Seconds = 0.0  # and when that was

    def key(self, client: ClientId) -> Key:
        return Key(self.number, "train", self.trial, client)

    @property
    def place(self) -> tuple[int, int]:
        return (self.number, self.trial)


@dataclass
class Scoring:
    """The round committed last, while its evaluations are awaited."""

    round: int
    accepted: set[Key]
    open: int
    asked: bool = False  # Score is said


class Rounds:
    """One run. `handle` takes one event at a time; the properties are for views and change nothing."""

    def __init__(self, settings: Settings, recovered: Recovered | None = None) -> None:
        known = recovered or Recovered()
        self._settings = settings
        self._phase = Phase.CREATED
        self._paused_in = Phase.CREATED
        self._staff = Staff(settings.clients, settings.pinned, known.nodes, known.homes)
        self._book = Book(known.issued)
        self._history = dict(known.history)
        self._first = known.initialized
        self._under = Under(
            known.committed + 1,
            known.trial or 1,
            known.cohort,
            dict(known.accepted),
            known.lost,
            arrivals=dict(known.arrivals),
        )
        self._scores = dict(sorted(known.accuracies.items()))
        self._evaluated = known.evaluated  # before a restart
        self._scoring: Scoring | None = None
        self._finished: str | None = None  # a stop condition is met
        self._stopping: str | None = None  # a stop waits for the commit
        self._trouble: str | None = None  # why it is paused
        self._wait_until: Seconds | None = None
        # what was said
        self._out: list[Command] = []
        self._shown: Show | None = None
        self._wake: Seconds | None = None
        self._ended: End | None = None

    # --- for views ---------------------------------------------------------------------------------------

    @property
    def phase(self) -> Phase:
        return self._phase

    @property
    def state(self) -> RunState:
        """As Show and End have told it; before Started it is waiting."""
        if self._ended is not None:
            return self._ended.state
        return self._shown.state if self._shown is not None else "waiting"

    @property
    def reason(self) -> str | None:
        """Why it waits, is paused or ended."""
        if self._ended is not None:
            return self._ended.reason
        return self._shown.reason if self._shown is not None else None

    @property
    def committed(self) -> int:
        """The last committed round; -1 before the first weights are."""
        return self._under.number - 1

    @property
    def round(self) -> int:
        """The round under way; after the last one, still the last."""
        return min(self._under.number, self._settings.rounds)

    @property
    def trial(self) -> int:
        return self._under.trial

    @property
    def cohort(self) -> tuple[ClientId, ...]:
        """Who is asked in the round under way; empty until it begins."""
        return self._under.cohort

    @property
    def arrived(self) -> tuple[ClientId, ...]:
        """Whose updates of the round under way are in, ascending."""
        return tuple(sorted(self._under.accepted))

    @property
    def homes(self) -> Mapping[ClientId, WorkerId]:
        return dict(sorted(self._staff.homes.items()))

    @property
    def fleet(self) -> Fleet | None:
        """Unequal machines; None: all are plain, by the real clock."""
        return self._settings.fleet

    @property
    def pinned_clients(self) -> Mapping[str, ClientId]:
        """Node name → client; empty in a portable run, and until every node has been there once."""
        return dict(self._staff.nodes)

    # --- the machine -------------------------------------------------------------------------------------

    def handle(self, event: Event) -> list[Command]:
        """What follows from one event. Raises IllegalTransition (a bug) where the table has no entry."""
        handler = TRANSITIONS.get((self._phase, type(event)))
        if handler is None:
            raise self._illegal(event)
        self._out = []
        handler(self, event)
        out, self._out = self._out, []
        return out

    def _illegal(self, event: Event) -> IllegalTransition:
        return IllegalTransition(
            f"run {self._settings.run}: {event!r} while {self._phase.value}, round {self._under.number}"
        )

    def _say(self, *commands: Command | None) -> None:
        self._out += [command for command in commands if command is not None]

    def _go_on(self, now: Seconds) -> None:
        """Whatever the facts allow by now, in this order."""
        if self._phase in (Phase.CREATED, Phase.ENDED):
            return
        if self._phase is Phase.PAUSED:
            self._show(Show("paused", self._trouble))
            self._wake_at(None)
            return
        if self._finished is not None:
            self._end("finished", self._finished)
            return
        if self._phase is Phase.GATHERING:
            self._begin(now)
            if self._ended is not None:
                return
        if self._book.changed:
            gives, again = deal(self._book, self._staff)
            self._say(*gives)
            self._under.lost += again
        if self._phase is Phase.TRAINING:
            if self._settings.virtual:
                if len(self._under.accepted) == self._under.coming:
                    self._play(now)
            elif len(self._under.accepted) >= self._target:
                self._cut()
            if self._ended is not None:
                return
        scoring = self._scoring
        if scoring is not None and not scoring.open and not scoring.asked:
            scoring.asked = True
            self._say(Score(scoring.round))
        if self._phase is Phase.HOLDING and scoring is None:
            self._close()
        self._tell(now)

    # --- beginning ---------------------------------------------------------------------------------------

    @property
    def _target(self) -> int:
        """How many updates end the round under way."""
        return min(self._settings.cohort_of(self._under.number), len(self._under.cohort))

    @property
    def _needed(self) -> int:
        return self._settings.needed(self._under.number)

    def _begin(self, now: Seconds) -> None:
        """From GATHERING, if those are there whom the next thing needs: first weights, or a cohort."""
        staff, under = self._staff, self._under
        if staff.pinned and not staff.nodes:
            if not staff.pin():
                return
            self._say(Pin(dict(staff.nodes)))
            self._settle()
        if under.number == 0:
            if staff.fit:
                self._phase = Phase.INITIALIZING
                self._book.want([Key(0, "initialize")])
            return
        cohort = self._draw()
        if cohort:
            self._phase = Phase.TRAINING
            under.cohort = cohort
            missing = self._missing()
            under.coming = len(missing)
            self._say(BeginRound(under.number, under.trial, cohort))
            self._arm(now)
            staff.gather(cohort)
            self._book.want(map(under.key, missing))

    def _draw(self) -> tuple[ClientId, ...]:
        """The cohort of the next round; empty while it could not reach its quorum."""
        settings, under, eligible = self._settings, self._under, self._staff.eligible()
        if settings.participants is not None:
            forced = settings.participants[under.number - 1]
            return tuple(sorted(forced)) if set(forced) <= set(eligible) else ()
        if len(eligible) < self._needed:
            return ()
        on = settings.on(under.number, under.trial, eligible)
        if not on:
            self._end(
                "failed",
                f"round {under.number}: it needs {self._needed} clients that are on, and {LOOKS} looks never"
                " found so many: raise the availability in machines.profiles or lower rounds.quorum",
            )
            return ()
        size = settings.asked(under.number)
        return settings.sampler.sample(settings.seed, under.number, under.trial, on, size, self._history)

    def _missing(self) -> list[ClientId]:
        """Whose updates are to come; by the virtual clock nobody trains for an update that gets lost."""
        under, settings = self._under, self._settings
        lost = settings.dropped(*under.place, under.cohort) if settings.virtual else ()
        return [client for client in under.cohort if client not in under.accepted and client not in lost]

    def _arm(self, now: Seconds) -> None:
        if self._settings.deadline is not None and not self._settings.virtual:
            self._under.deadline_at = now + self._settings.deadline

    def _evaluate_if_due(self) -> None:
        """Want every shard of the weights committed last and, where asked, every client that is there."""
        settings, committed = self._settings, self.committed
        if committed < 0 or not settings.due(committed) or committed in self._scores:
            return
        keys = [Key(committed, "evaluate", shard=shard) for shard in range(settings.shards)]
        if settings.federated:
            clients = self._staff.eligible() if settings.pinned else range(settings.clients)
            keys += [Key(committed, "evaluate", client=client) for client in clients]
        done = {key for key in self._evaluated if key.round == committed}
        wanted = [key for key in keys if key not in done]
        self._scoring = Scoring(committed, done, len(wanted))
        self._book.want(wanted)

    def _settle(self) -> None:
        """After workers came or went: clients move."""
        staff, book = self._staff, self._book
        if self._under.number > 0:
            staff.settle({key.client for key in book.idle["train"]}, book.load)
        if staff.pinned and self._scoring is not None:
            # nobody else could evaluate on a pinned client's data, and a round is not held up for it
            for key in [
                key for key in book.idle["evaluate"] if key.client >= 0 and key.client not in staff.homes
            ]:
                book.close(key)
                self._scoring.open -= 1

    # --- ending ------------------------------------------------------------------------------------------

    def _play(self, now: Seconds) -> None:
        """The virtual clock: all that will come is in, and happens now in the order that it would have."""
        under = self._under
        under.counted, under.seconds = play(under.arrivals, self._target, self._settings.deadline)
        if len(under.counted) >= self._needed:
            self._cut()
        else:
            self._missed(len(under.counted), now)

    def _cut(self) -> None:
        """The cohort is complete, or cut by the deadline: nobody else gets in."""
        self._withdraw("train")
        self._under.deadline_at = None
        self._phase = Phase.HOLDING

    def _close(self) -> None:
        under, settings = self._under, self._settings
        participants = under.counted if settings.virtual else self.arrived
        late = tuple(sorted(set(under.cohort) - set(participants)))
        dropped = len(settings.dropped(*under.place, late))
        virtual = (under.trial - 1) * (settings.deadline or 0.0) + under.seconds if settings.virtual else None
        self._phase = Phase.CLOSING
        self._say(Close(under.number, under.trial, participants, late, under.lost, dropped, virtual))

    def _missed(self, arrived: int, now: Seconds) -> None:
        """The deadline found too few."""
        self._retry(
            f"had {arrived} of the {self._needed} updates it needs at its deadline of"
            f" {self._settings.deadline:g} s: raise rounds.deadline or lower rounds.quorum",
            now,
        )

    def _retry(self, why: str, now: Seconds) -> None:
        """Another sample for the same round, if there may be one."""
        under, retries = self._under, self._settings.retries
        if under.trial > retries:
            self._end("failed", f"round {under.number} {why} (trial {under.trial} of {retries + 1})")
            return
        self._withdraw("train")
        self._under = Under(under.number, under.trial + 1, lost=under.lost)
        self._phase = Phase.GATHERING
        self._go_on(now)

    def _withdraw(self, *kinds: str) -> None:
        for key in sorted(key for key in self._book.open if key.kind in kinds):
            self._say(self._book.close(key))

    def _end(self, state: Literal["finished", "failed", "stopped"], reason: str) -> None:
        self._withdraw("initialize", "train", "evaluate")
        self._phase = Phase.ENDED
        self._wake_at(None)
        self._ended = End(state, self.committed, reason)
        self._say(self._ended)

    # --- telling -----------------------------------------------------------------------------------------

    def _tell(self, now: Seconds) -> None:
        """Placement, visible state and the next time to wake, where they changed."""
        if self._staff.moved:
            self._staff.moved = False
            self._say(Place(self.homes))
        obstacle = self._obstacle()
        if obstacle is not None:
            if self._wait_until is None:
                self._wait_until = now + self._settings.wait_for_workers
            self._show(Show("waiting", obstacle))
        else:
            if self._wait_until is not None and self._phase is Phase.TRAINING:
                self._arm(now)
            self._wait_until = None
            self._show(Show("initializing" if self._under.number == 0 else "running"))
        times = [time for time in (self._under.deadline_at, self._wait_until) if time is not None]
        self._wake_at(min(times, default=None))

    def _obstacle(self) -> str | None:
        """Why nothing that is under way could end this phase; None: something can."""
        staff, idle, under = self._staff, self._book.idle, self._under
        if self._phase is Phase.GATHERING:
            if staff.pinned and not staff.nodes:
                return staff.not_joined()
            return staff.nobody() or staff.too_few(self._needed)
        if idle["initialize"] or idle["evaluate"]:
            return staff.nobody()
        if self._phase is Phase.TRAINING and self._settings.virtual:
            return staff.nobody() if idle["train"] else None
        if self._phase is Phase.TRAINING and len(under.cohort) - len(idle["train"]) < self._needed:
            return staff.nobody() or staff.too_few(self._needed)
        return None

    def _show(self, show: Show) -> None:
        if show != self._shown:
            self._shown = show
            self._say(show)

    def _wake_at(self, at: Seconds | None) -> None:
        if at != self._wake:
            self._wake = at
            self._say(Wake(at))

    # --- events: the run ---------------------------------------------------------------------------------

    def _started(self, event: Started) -> None:
        under = self._under
        if self.committed >= self._settings.rounds:
            self._phase = Phase.SCORING
        elif under.number == 0 and self._first is not None:
            self._phase = Phase.HOLDING
        elif under.cohort:
            self._phase = Phase.TRAINING
            missing = self._missing()
            under.coming = len(under.accepted) + len(missing)
            self._arm(event.now)
            self._book.want(map(under.key, missing))
        else:
            self._phase = Phase.GATHERING
        self._settle()
        self._evaluate_if_due()
        self._finished = self._settings.verdict(self.committed, self._scores)
        self._go_on(event.now)

    def _round_committed(self, event: RoundCommitted) -> None:
        paused = self._phase is Phase.PAUSED
        if event.round != self._under.number or (paused and self._paused_in is not Phase.CLOSING):
            raise self._illegal(event)
        self._under = Under(event.round + 1)
        self._history |= event.seen
        self._book.forget(event.round)
        following = Phase.SCORING if event.round >= self._settings.rounds else Phase.GATHERING
        if paused:
            self._paused_in = following
        else:
            self._phase = following
        if self._stopping is not None:
            self._end("stopped", self._stopping)
            return
        if event.round == 0:
            self._settle()
        self._evaluate_if_due()
        self._go_on(event.now)

    def _round_scored(self, event: RoundScored) -> None:
        if self._scoring is None or self._scoring.open or self._scoring.round != event.round:
            raise self._illegal(event)
        self._scoring = None
        self._scores[event.round] = event.accuracy
        self._finished = self._settings.verdict(self.committed, self._scores)
        self._go_on(event.now)

    def _stop(self, event: StopAsked) -> None:
        self._end("stopped", event.reason)

    def _stop_after_commit(self, event: StopAsked) -> None:
        self._stopping = event.reason

    def _pause(self, event: PauseAsked) -> None:
        self._paused_in, self._phase = self._phase, Phase.PAUSED
        self._pause_again(event)

    def _pause_again(self, event: PauseAsked) -> None:
        if self._stopping is not None:  # the commit that it waits for has failed
            self._end("stopped", self._stopping)
            return
        self._trouble = event.reason
        self._wait_until = self._under.deadline_at = None
        for key in event.unrecorded:
            self._take_back(key)
        self._go_on(event.now)

    def _take_back(self, key: Key) -> None:
        """An Accept that was not recorded: as if it had not come, nor what followed from it."""
        under, scoring = self._under, self._scoring
        if scoring is not None and key in scoring.accepted:
            scoring.accepted.discard(key)
            scoring.open += 1
            self._book.reopen(key, self._staff.present)
        elif key.kind == "initialize" and under.number == 0 and self._first is not None:
            self._first = None
            self._paused_in = Phase.INITIALIZING
            self._book.reopen(key, self._staff.present)
        elif key == under.key(key.client) and key.client in under.accepted:
            del under.accepted[key.client]
            under.arrivals.pop(key.client, None)
            self._paused_in = Phase.TRAINING
            self._book.reopen(key, self._staff.present)
            missing = map(under.key, self._missing())
            self._book.want(key for key in missing if key not in self._book.open)

    def _resume(self, event: ResumeAsked) -> None:
        """Say again what may not have been carried out, and go on."""
        self._phase, self._trouble = self._paused_in, None
        if self._phase is Phase.CLOSING:
            self._phase = Phase.HOLDING
        if self._staff.nodes:
            self._say(Pin(dict(self._staff.nodes)))
        if self._under.cohort:
            self._say(BeginRound(self._under.number, self._under.trial, self._under.cohort))
        if self._phase is Phase.TRAINING:
            self._arm(event.now)
        if self._scoring is not None:
            self._scoring.asked = False
        self._staff.moved = True
        self._book.scatter()
        self._go_on(event.now)

    def _say_end_again(self, _: ResumeAsked) -> None:
        self._say(self._ended)

    def _nothing(self, _: Event) -> None:
        """It does not matter now."""

    # --- events: workers and time ------------------------------------------------------------------------

    def _worker_arrived(self, event: WorkerArrived) -> None:
        self._staff.arrive(event)
        self._staff_changed(event.now)

    def _worker_gone(self, event: WorkerGone) -> None:
        if self._staff.leave(event.worker):
            self._book.gone(event.worker)
            self._staff_changed(event.now)

    def _staff_changed(self, now: Seconds) -> None:
        if self._phase is not Phase.CREATED:
            self._book.changed = True
            self._settle()
            self._go_on(now)

    def _order_failed(self, event: OrderFailed) -> None:
        key, book = event.key, self._book
        order = book.open.get(key)
        if order is None or book.fault(key, event.attempt, event.worker) is not None:
            return  # it was given to another, or is not wanted any more
        self._say(book.spoil(key))
        if event.refused:
            self._say(*(book.spoil(other) for other in sorted(book.held.get(event.worker, ()))))
            self._staff.refuse(event.worker, event.detail)
            self._staff_changed(event.now)
            return
        order.failures += 1
        if order.failures < FAILED_ATTEMPTS:
            self._go_on(event.now)
            return
        what = f"{key.kind} client {key.client}" if key.client >= 0 else key.kind
        self._end(
            "failed",
            f"round {key.round}: the order to {what} failed {order.failures} times,"
            f" last on worker {event.worker}: {event.detail}",
        )

    def _time_passed(self, event: TimePassed) -> None:
        under, now = self._under, event.now
        self._wake = None  # whoever wakes too early is told the time again
        if under.deadline_at is not None and now >= under.deadline_at:
            under.deadline_at = None
            if len(under.accepted) >= self._needed:
                self._cut()
            elif self._wait_until is None or len(self._staff.eligible()) >= self._needed:
                self._missed(len(under.accepted), now)
                return
        if self._wait_until is not None and now >= self._wait_until:
            why = f"waited {self._settings.wait_for_workers:g} s for workers: {self._obstacle()}"
            self._wait_until = None
            if self._phase is Phase.TRAINING and len(self._staff.eligible()) >= self._needed:
                self._retry(why, now)
            else:
                self._end("failed", why)
            return
        self._go_on(now)

    # --- events: replies ---------------------------------------------------------------------------------

    def _initialize_arrived(self, event: InitializeArrived) -> None:
        key = event.key
        if self._first is not None and event.digest == self._first:
            self._say(AcceptAgain(key))
        elif self._first is not None or self._under.number > 0:
            self._reject(key, Stale("this run has its first weights already: drop these"))
        elif self._awaited(event, "initialize"):
            self._first = event.digest
            self._phase = Phase.HOLDING
            self._accept(key, event.digest, event.now)

    def _update_arrived(self, event: UpdateArrived) -> None:
        key, under = event.key, self._under
        if (key.round, key.trial) < under.place:
            self._reject(key, Stale(f"round {key.round}, trial {key.trial} is closed: drop it"))
        elif under.accepted.get(key.client) == event.digest and key == under.key(key.client):
            self._say(AcceptAgain(key))
        elif key.client in under.accepted and key == under.key(key.client):
            self._reject(key, AlreadyAccepted(f"another update of client {key.client} is in: drop it"))
        elif self._phase in (Phase.HOLDING, Phase.CLOSING) and key.client in under.cohort:
            self._reject(key, Stale(f"round {key.round} has enough updates without it: drop it"))
        elif self._awaited(event, "train"):
            under.accepted[key.client] = event.digest
            under.arrivals[key.client] = event.arrival
            self._accept(key, event.digest, event.now)

    def _evaluation_arrived(self, event: EvaluationArrived) -> None:
        key, scoring = event.key, self._scoring
        if scoring is None or key.round < scoring.round:
            self._reject(key, Stale(f"the evaluation of round {key.round} is over: drop it"))
        elif key in scoring.accepted:
            self._say(AcceptAgain(key))
        elif self._awaited(event, "evaluate"):
            scoring.accepted.add(key)
            scoring.open -= 1
            self._accept(key, "", event.now)

    def _awaited(self, event: Reply, kind: str) -> bool:
        """Whether this is the reply that an open order waits for; refused where it is not."""
        key = event.key
        if key.kind != kind or key not in self._book.open:
            fault: Exception | None = NotAsked(
                f"nobody was asked for this reply ({kind}, round {key.round}): drop it"
            )
        else:
            fault = self._book.fault(key, event.attempt, event.worker)
        if fault is not None:
            self._reject(key, fault)
        return fault is None

    def _accept(self, key: Key, digest: Digest, now: Seconds) -> None:
        self._book.close(key)
        self._say(Accept(key, digest))
        self._go_on(now)

    def _reject(self, key: Key, error: Any) -> None:
        self._say(Reject(key, error))

    def _no_room(self, event: Reply) -> None:
        self._reject(event.key, StorageFull(f"the run is paused ({self._trouble}): send it again later"))

    def _over(self, event: Reply) -> None:
        self._reject(event.key, Stale("the run is over: drop it"))


def _transitions() -> dict[tuple[Phase, type], Callable[[Rounds, Any], None]]:
    """What is legal, and what it does: {(phase, event): handler}. A missing entry is the error."""
    asking = [
        Phase.GATHERING,
        Phase.INITIALIZING,
        Phase.TRAINING,
        Phase.HOLDING,
        Phase.SCORING,
    ]  # orders are out
    closing, paused, ended = [Phase.CLOSING], [Phase.PAUSED], [Phase.ENDED]
    created, active = [Phase.CREATED], asking + closing
    rules: list[tuple[list[Phase], type, Callable[[Rounds, Any], None]]] = [
        (created, Started, Rounds._started),
        (created + active + paused, WorkerArrived, Rounds._worker_arrived),
        (created + active + paused, WorkerGone, Rounds._worker_gone),
        (active + paused, OrderFailed, Rounds._order_failed),
        (active, TimePassed, Rounds._time_passed),
        (active, InitializeArrived, Rounds._initialize_arrived),
        (active, UpdateArrived, Rounds._update_arrived),
        (active, EvaluationArrived, Rounds._evaluation_arrived),
        (closing + paused, RoundCommitted, Rounds._round_committed),
        (asking + paused, RoundScored, Rounds._round_scored),
        (created + asking + paused, StopAsked, Rounds._stop),
        (closing, StopAsked, Rounds._stop_after_commit),
        (active, PauseAsked, Rounds._pause),
        (paused, PauseAsked, Rounds._pause_again),
        (paused, ResumeAsked, Rounds._resume),
        (paused + ended, TimePassed, Rounds._nothing),
        *(
            (paused, reply, Rounds._no_room)
            for reply in (InitializeArrived, UpdateArrived, EvaluationArrived)
        ),
        *((ended, reply, Rounds._over) for reply in (InitializeArrived, UpdateArrived, EvaluationArrived)),
        *((ended, late, Rounds._nothing) for late in (WorkerArrived, WorkerGone, OrderFailed)),
        *((ended, late, Rounds._nothing) for late in (RoundCommitted, RoundScored, StopAsked, PauseAsked)),
        (ended, ResumeAsked, Rounds._say_end_again),
    ]
    return {(phase, event): handler for phases, event, handler in rules for phase in phases}


TRANSITIONS: Final = _transitions()
