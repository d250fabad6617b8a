"""The round, as a pure state machine: events in, commands out, nothing else.

No clock, no asyncio, no I/O and no chance but the strategy's seeded sampler: the same events give the same
commands. Time arrives in events; the driver (`conductor`) carries the commands out, in order, and reports what
came of them.

    CREATED ──Started──▶ GATHERING ──a worker──▶ INITIALIZING ──reply──▶ HOLDING(0) ─▶ CLOSING(0)
                            ▲  │                                                           │
                            │  │                                                           │
                            ├──│────────────────── RoundCommitted(r), r < last ────────────┴──────────────┐
          deadline missed:  │  │ enough eligible clients: sample                                          │
          another trial     │  ▼                                                                          │
                          TRAINING(r) ── enough updates ──▶ HOLDING(r) ── r-1 scored ──▶ CLOSING(r) ───────┤
                                                                                                          │
                                          ENDED ◀── RoundScored ── SCORING ◀── RoundCommitted(last) ──────┘

GATHERING     what comes next needs workers: any one to make the first weights, enough eligible clients for a
              cohort, and, once, all nodes of a pinned run. Usually passed through within one event.
INITIALIZING  one worker makes the first weights; Close(0) keeps them.
TRAINING      the cohort's updates come in. It ends when the cohort's size is in (the rest are withdrawn, and
              stale when they come), or at the deadline with the quorum in. Below the quorum all are withdrawn and
              a new sample is asked, `retries` times; then the run fails.
HOLDING       the cohort is cut, but the round before is perhaps still being evaluated: if that meets a stop
              condition, the run ends with its weights and this round is discarded. So Close(r) is only said once
              r-1 is scored.
CLOSING       the driver folds and commits. Then the evaluations of r and the cohort of r+1 are given in one step.
SCORING       all rounds are committed, the evaluation of the last is awaited.

From every phase but CREATED: PauseAsked leads to PAUSED and ResumeAsked back, all commands that may not have been
carried out being said again; StopAsked, the stop conditions and what cannot be helped lead to ENDED. In CLOSING a
stop waits for the commit.

Orders. What is wanted is a set of keys (`book`). After each event whatever nobody present holds is given: to the
worker that had it last under the same attempt (it came back), else to another under the next. So a lost worker,
a refusal, a failure and a restart are one case. A key that fails FAILED_ATTEMPTS times fails the run; a worker
that refuses is unfit, and gets nothing of this run until it arrives again.

Waiting is not a phase but a condition that any phase can be in: something is wanted, nobody who could do it is
there, and without it the phase cannot end. It shows (Show "waiting", with the reason), it has its time (Wake),
after which the run fails naming the remedy, and the arrival of a worker ends it; the round goes on where it was,
its deadline anew.

Every handler changes the facts and then calls `_go_on`, which does whatever the facts allow by now.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Literal, TypeAlias

from roundtable.errors import AlreadyAccepted, IllegalTransition, NotAsked, Stale, StorageFull
from roundtable.messages import RunState
from roundtable.types import ClientId, Seconds, WorkerId

from aggregator.book import Book
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
from aggregator.placement import place, spread
from aggregator.terms import Issued, Recovered, Settings

__all__ = ["Issued", "Phase", "Recovered", "Rounds", "Settings"]

FAILED_ATTEMPTS: Final = 3  # of one order, before the run fails


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
class Scoring:
    """A committed round whose evaluations are awaited."""

    round: int
    accepted: set[Key] = field(default_factory=set)
    open: int = 0
    asked: bool = False  # Score is said


class Rounds:
    """One run. `handle` takes one event at a time; the properties are for views and never change anything."""

    def __init__(self, settings: Settings, recovered: Recovered | None = None) -> None:
        known = recovered or Recovered()
        self._settings = settings
        self._phase = Phase.CREATED
        self._paused_in = Phase.CREATED
        self._out: list[Command] = []
        self._ended: End | None = None
        # workers and clients
        self._workers: dict[WorkerId, WorkerArrived] = {}  # present
        self._unfit: dict[WorkerId, str] = {}  # present, but they refused this run: why
        self._fit: list[WorkerId] = []  # present and not unfit, sorted
        self._nodes = dict(known.nodes)  # pinned: node → client
        self._joined: set[str] = set()  # pinned: nodes that have ever been there
        self._homes = dict(known.homes)
        self._history = dict(known.history)
        # the round under way, and the evaluation of the one before
        self._book = Book(known.issued)
        self._committed = known.committed
        self._first = known.initialized
        self._trial = known.trial or 1
        self._cohort = known.cohort
        self._accepted = dict(known.accepted)
        self._participants = known.closed.participants if known.closed else ()  # once the cohort is cut
        self._was_closed = known.closed is not None
        self._lost = known.lost
        self._scores = dict(sorted(known.accuracies.items()))
        self._evaluated = known.evaluated
        self._scoring: Scoring | None = None
        # times, and what was last said
        self._deadline_at: Seconds | None = None
        self._wait_until: Seconds | None = None
        self._reason: str | None = None
        self._stopping: str | None = None
        self._shown: Show | None = None
        self._wake: Seconds | None = None
        self._placed = dict(known.homes)

    # --- for views ------------------------------------------------------------------------------------------

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
        return self._committed

    @property
    def round(self) -> int:
        """The round under way; after the last one, still the last."""
        return min(self._committed + 1, self._settings.rounds)

    @property
    def trial(self) -> int:
        return self._trial

    @property
    def cohort(self) -> tuple[ClientId, ...]:
        """Who is asked in the round under way; empty until it begins."""
        return self._cohort

    @property
    def arrived(self) -> tuple[ClientId, ...]:
        """Whose updates of the round under way are in."""
        return tuple(sorted(self._accepted))

    @property
    def homes(self) -> Mapping[ClientId, WorkerId]:
        return dict(sorted(self._homes.items()))

    @property
    def pinned_clients(self) -> Mapping[str, ClientId]:
        """Node name → client; empty in a portable run, and until every node has been there once."""
        return dict(self._nodes)

    # --- the machine ----------------------------------------------------------------------------------------

    def handle(self, event: Event) -> list[Command]:
        """What follows from one event. Raises IllegalTransition (a bug) where the table has no entry for it."""
        handler = TRANSITIONS.get((self._phase, type(event)))
        if handler is None:
            raise self._illegal(event)
        self._out = []
        handler(self, event)
        out, self._out = self._out, []
        return out

    def _illegal(self, event: Event) -> IllegalTransition:
        return IllegalTransition(
            f"run {self._settings.run}: {event!r} while {self._phase.value}, round {self._committed + 1}"
        )

    def _say(self, command: Command | None) -> None:
        if command is not None:
            self._out.append(command)

    def _go_on(self, now: Seconds) -> None:
        """Whatever the facts allow by now, in this order."""
        if self._phase in (Phase.CREATED, Phase.ENDED):
            return
        if self._phase is Phase.PAUSED:
            self._tell(now)
            return
        verdict = self._verdict()
        if verdict is not None:
            self._end("finished", verdict)
            return
        if self._phase is Phase.GATHERING:
            self._begin(now)
        self._hand_out()
        if self._phase is Phase.TRAINING and len(self._accepted) >= self._target:
            self._cut()
        scoring = self._scoring
        if scoring is not None and not scoring.open and not scoring.asked:
            scoring.asked = True
            self._say(Score(scoring.round))
        if self._phase is Phase.HOLDING and scoring is None:
            self._close()
        self._tell(now)

    # --- what is wanted -------------------------------------------------------------------------------------

    @property
    def _target(self) -> int:
        """How many updates end the round under way."""
        return min(self._settings.cohort_of(self._committed + 1), len(self._cohort))

    @property
    def _needed(self) -> int:
        return self._settings.needed(self._committed + 1)

    def _eligible(self) -> list[ClientId]:
        """Clients that could be asked now, ascending."""
        if self._settings.pinned:
            return sorted(client for client in self._nodes.values() if client in self._homes)
        return list(range(self._settings.clients)) if self._fit else []

    def _train_key(self, client: ClientId) -> Key:
        return Key(self._committed + 1, "train", self._trial, client)

    def _begin(self, now: Seconds) -> None:
        """From GATHERING, if those are there whom the next thing needs: first weights, or a cohort."""
        settings = self._settings
        if settings.pinned and not self._nodes:
            if len(self._joined) < settings.clients:
                return
            self._nodes = {
                node: client for client, node in enumerate(sorted(self._joined)[: settings.clients])
            }
            self._say(Pin(dict(self._nodes)))
            self._settle_homes()
        if self._committed < 0:
            if self._fit:
                self._phase = Phase.INITIALIZING
                self._book.want([Key(0, "initialize")])
            return
        cohort = self._draw()
        if cohort:
            self._phase = Phase.TRAINING
            self._cohort = cohort
            self._deadline_at = None if settings.deadline is None else now + settings.deadline
            self._say(BeginRound(self._committed + 1, self._trial, cohort))
            self._homes = place(cohort, self._homes, self._fit, cohort if settings.pinned else ())
            self._book.want(map(self._train_key, cohort))

    def _draw(self) -> tuple[ClientId, ...]:
        """The cohort of the next round; empty while it could not reach its quorum."""
        settings, following = self._settings, self._committed + 1
        eligible = self._eligible()
        if settings.participants is not None:
            forced = settings.participants[following - 1]
            return tuple(sorted(forced)) if set(forced) <= set(eligible) else ()
        if len(eligible) < self._needed:
            return ()
        return settings.sampler.sample(
            settings.seed, following, self._trial, eligible, settings.asked(following), self._history
        )

    def _want_evaluations(self) -> None:
        """Of the weights just committed: every shard, and every client that is there where that is asked."""
        settings, round_number = self._settings, self._committed
        keys = [Key(round_number, "evaluate", shard=shard) for shard in range(settings.shards)]
        if settings.federated:
            clients = self._eligible() if settings.pinned else range(settings.clients)
            keys += [Key(round_number, "evaluate", client=client) for client in clients]
        done = {key for key in self._evaluated if key.round == round_number}
        wanted = [key for key in keys if key not in done]
        self._scoring = Scoring(round_number, done, len(wanted))
        self._book.want(wanted)

    # --- who does it ----------------------------------------------------------------------------------------

    def _settle_homes(self) -> None:
        """After workers came or went: clients whose worker is not there move, those being asked first."""
        if self._settings.pinned:
            hosts = {
                self._workers[worker].node: worker
                for worker in reversed(self._fit)
                if self._workers[worker].pinned
            }
            self._homes = {client: hosts[node] for node, client in self._nodes.items() if node in hosts}
            self._drop_evaluations_of_absent_nodes()
        elif self._fit and self._committed >= 0:
            here = set(self._fit)
            homeless = [c for c in range(self._settings.clients) if self._homes.get(c) not in here]
            asked = [c for c in homeless if self._train_key(c) in self._book.open]
            others = [c for c in homeless if self._train_key(c) not in self._book.open]
            self._homes |= spread(asked, {worker: self._book.load(worker) for worker in self._fit})
            hosting = dict.fromkeys(self._fit, 0)
            for home in self._homes.values():
                if home in here:
                    hosting[home] += 1
            self._homes |= spread(others, hosting)

    def _drop_evaluations_of_absent_nodes(self) -> None:
        """Nobody else could evaluate on a pinned client's data, and a round is not held up for it."""
        for key in [key for key in self._book.open if key.kind == "evaluate" and key.client >= 0]:
            if key.client not in self._homes:
                self._book.close(key)
                assert self._scoring is not None
                self._scoring.open -= 1

    def _hand_out(self) -> None:
        """Give every order that nobody holds; training first, so that updates travel during evaluation."""
        if not self._book.idle or not self._fit:
            return
        evaluating = {
            worker: sum(key.kind == "evaluate" for key in self._book.held.get(worker, ()))
            for worker in self._fit
        }
        for key in sorted(self._book.idle, key=lambda key: (key.kind != "train", key)):
            worker = self._choose(key, evaluating)
            if worker is None:
                continue
            order = self._book.open[key]
            if order.attempt and (order.spoilt or order.worker != worker) and key.kind != "evaluate":
                self._lost += 1
            if key.kind == "train":
                self._homes[key.client] = worker
            elif key.kind == "evaluate":
                evaluating[worker] += 1
            self._say(self._book.give(key, worker))

    def _choose(self, key: Key, evaluating: Mapping[WorkerId, int]) -> WorkerId | None:
        """The worker that should hold this order; None: nobody who could is there."""
        order = self._book.open[key]
        home = self._homes.get(key.client)
        if self._settings.pinned and key.client >= 0:
            return home
        candidates = self._fit
        if order.spoilt and len(candidates) > 1:  # somebody else, if there is anybody
            candidates = [worker for worker in candidates if worker != order.worker]
        elif order.worker in self._workers and order.worker not in self._unfit:
            return order.worker
        if home in candidates:
            return home
        return min(candidates, key=lambda worker: (evaluating[worker], self._book.load(worker), worker))

    # --- how a round ends -----------------------------------------------------------------------------------

    def _withdraw(self, keys: list[Key]) -> None:
        for key in sorted(keys):
            self._say(self._book.close(key))

    def _open_trains(self) -> list[Key]:
        return [key for key in self._book.open if key.kind == "train"]

    def _cut(self) -> None:
        """The cohort is complete, or cut by the deadline: nobody else gets in."""
        self._withdraw(self._open_trains())
        self._participants = self.arrived
        self._deadline_at = None
        self._phase = Phase.HOLDING

    def _close(self) -> None:
        late = tuple(client for client in self._cohort if client not in set(self._participants))
        self._phase = Phase.CLOSING
        self._say(Close(self._committed + 1, self._trial, self._participants, late, self._lost))

    def _retry(self, why: str, now: Seconds) -> None:
        settings = self._settings
        if self._trial > settings.retries:
            self._end(
                "failed",
                f"round {self._committed + 1} {why}, in trial {self._trial} of {settings.retries + 1}",
            )
            return
        self._withdraw(self._open_trains())
        self._trial += 1
        self._cohort, self._accepted, self._deadline_at = (), {}, None
        self._phase = Phase.GATHERING
        self._go_on(now)

    def _verdict(self) -> str | None:
        """Why the run is finished by now; None: it is not."""
        settings, scores = self._settings, self._scores
        if self._committed not in scores or self._phase is Phase.CLOSING:
            return None
        accuracy = scores[self._committed]
        if settings.accuracy is not None and accuracy is not None and accuracy >= settings.accuracy:
            return f"round {self._committed}: test accuracy {accuracy:.4f} reached stop.accuracy = {settings.accuracy:g}"
        if settings.patience is not None:
            known = [score for score in scores.values() if score is not None]
            if known and len(known) - 1 - known.index(max(known)) >= settings.patience:
                return (
                    f"test accuracy has not risen above {max(known):.4f} for {settings.patience} evaluations"
                    f" (stop.patience) by round {self._committed}"
                )
        return f"all {settings.rounds} rounds are done" if self._committed >= settings.rounds else None

    def _end(self, state: Literal["finished", "failed", "stopped"], reason: str) -> None:
        self._withdraw(list(self._book.open))
        self._phase = Phase.ENDED
        self._wake_at(None)
        self._ended = End(state, self._committed, reason)
        self._say(self._ended)

    # --- what is told ---------------------------------------------------------------------------------------

    def _tell(self, now: Seconds) -> None:
        """Placement, visible state and the next time to wake, where they changed."""
        if self._homes != self._placed:
            self._placed = dict(self._homes)
            self._say(Place(dict(sorted(self._homes.items()))))
        if self._phase is Phase.PAUSED:
            self._show(Show("paused", self._reason))
            self._wake_at(None)
            return
        obstacle = self._obstacle()
        if obstacle is None:
            if self._wait_until is not None:
                self._wait_until = None
                if self._phase is Phase.TRAINING and self._settings.deadline is not None:
                    self._deadline_at = now + self._settings.deadline
            initializing = self._committed < 0
            self._show(Show("initializing" if initializing else "running"))
        else:
            if self._wait_until is None:
                self._wait_until = now + self._settings.wait_for_workers
            self._show(Show("waiting", obstacle))
        times = [time for time in (self._deadline_at, self._wait_until) if time is not None]
        self._wake_at(min(times, default=None))

    def _show(self, show: Show) -> None:
        if show != self._shown:
            self._shown = show
            self._say(show)

    def _wake_at(self, at: Seconds | None) -> None:
        if at != self._wake:
            self._wake = at
            self._say(Wake(at))

    def _obstacle(self) -> str | None:
        """Why nothing that is under way could end this phase; None: something can."""
        settings = self._settings
        if self._phase is Phase.GATHERING:
            if settings.pinned and not self._nodes:
                names = f" ({', '.join(sorted(self._joined))})" if self._joined else ""
                return (
                    f"{len(self._joined)} of {settings.clients} nodes with their own data have joined{names}: "
                    f"start a worker with a data folder on each, or set clients.count to how many there are"
                )
            return self._nobody() or self._too_few()
        if not self._book.idle:
            return None
        if any(key.kind != "train" for key in self._book.idle):
            return self._nobody()
        trains = self._open_trains()
        coming = sum(key not in self._book.idle for key in trains)
        if self._phase is Phase.TRAINING and len(self._accepted) + coming < self._needed:
            return self._nobody() or self._too_few()
        return None

    def _nobody(self) -> str | None:
        if self._fit:
            return None
        if self._unfit:
            worker = min(self._unfit)
            return f"no worker can take this run; {worker} said: {self._unfit[worker]}"
        return "no worker is there: start one, or see why the workers do not reach this aggregator"

    def _too_few(self) -> str:
        away = sorted(node for node, client in self._nodes.items() if client not in self._homes)
        return (
            f"round {self._committed + 1} needs {self._needed} clients, and {len(away)} of {self._settings.clients} nodes"
            f" are away ({', '.join(away)}): bring them back, or lower rounds.quorum"
        )

    # --- events: the run ------------------------------------------------------------------------------------

    def _started(self, event: Started) -> None:
        self._evaluate_if_due()
        if self._committed >= self._settings.rounds:
            self._phase = Phase.SCORING
        elif self._was_closed or (self._committed < 0 and self._first is not None):
            self._phase = Phase.HOLDING
        elif self._cohort:
            self._phase = Phase.TRAINING
            self._deadline_at = (
                None if self._settings.deadline is None else event.now + self._settings.deadline
            )
            self._book.want(
                self._train_key(client) for client in self._cohort if client not in self._accepted
            )
        else:
            self._phase = Phase.GATHERING
        self._settle_homes()
        self._go_on(event.now)

    def _evaluate_if_due(self) -> None:
        if (
            self._committed >= 0
            and self._settings.due(self._committed)
            and self._committed not in self._scores
        ):
            self._want_evaluations()

    def _round_committed(self, event: RoundCommitted) -> None:
        where = self._paused_in if self._phase is Phase.PAUSED else self._phase
        if event.round != self._committed + 1 or where not in (Phase.CLOSING, Phase.HOLDING):
            raise self._illegal(event)
        self._committed = event.round
        self._history |= event.seen
        self._trial, self._cohort, self._accepted, self._participants, self._lost = 1, (), {}, (), 0
        self._book.forget(event.round)
        following = Phase.SCORING if event.round >= self._settings.rounds else Phase.GATHERING
        if self._phase is Phase.PAUSED:
            self._paused_in = following
        else:
            self._phase = following
        if self._stopping is not None:
            self._end("stopped", self._stopping)
            return
        if event.round == 0:
            self._settle_homes()
        self._evaluate_if_due()
        self._go_on(event.now)

    def _round_scored(self, event: RoundScored) -> None:
        if self._scoring is None or self._scoring.open or self._scoring.round != event.round:
            raise self._illegal(event)
        self._scoring = None
        self._scores[event.round] = event.accuracy
        self._go_on(event.now)

    def _stop(self, event: StopAsked) -> None:
        self._end("stopped", event.reason)

    def _stop_after_commit(self, event: StopAsked) -> None:
        self._stopping = event.reason

    def _pause(self, event: PauseAsked) -> None:
        self._paused_in = self._phase
        self._phase = Phase.PAUSED
        self._pause_again(event)

    def _pause_again(self, event: PauseAsked) -> None:
        if self._stopping is not None:  # the commit that it waited for has failed
            self._end("stopped", self._stopping)
            return
        self._reason = event.reason
        self._deadline_at = self._wait_until = None
        if self._scoring is not None:
            self._scoring.asked = False
        if self._paused_in is Phase.CLOSING:
            self._paused_in = Phase.HOLDING  # and Close is said again
        for key in event.unrecorded:
            self._take_back(key)
        self._tell(event.now)

    def _take_back(self, key: Key) -> None:
        """An Accept that was not recorded: as if it had not come, nor what followed from it."""
        if key.kind == "evaluate" and self._scoring is not None and key in self._scoring.accepted:
            self._scoring.accepted.discard(key)
            self._scoring.open += 1
            self._book.want([key])
        elif key.kind == "initialize" and self._committed < 0 and self._first is not None:
            self._first = None
            self._paused_in = Phase.INITIALIZING
            self._book.want([key])
        elif key.kind == "train" and key == self._train_key(key.client) and key.client in self._accepted:
            del self._accepted[key.client]
            self._participants = ()
            self._paused_in = Phase.TRAINING
            missing = [self._train_key(client) for client in self._cohort if client not in self._accepted]
            self._book.want(key for key in missing if key not in self._book.open)

    def _resume(self, event: ResumeAsked) -> None:
        """Say again what may not have been carried out, and go on."""
        self._phase, self._reason = self._paused_in, None
        if self._nodes:
            self._say(Pin(dict(self._nodes)))
        if self._phase in (Phase.TRAINING, Phase.HOLDING) and self._cohort:
            self._say(BeginRound(self._committed + 1, self._trial, self._cohort))
            if self._phase is Phase.TRAINING and self._settings.deadline is not None:
                self._deadline_at = event.now + self._settings.deadline
        self._placed = {}
        self._book.scatter()
        self._go_on(event.now)

    def _say_end_again(self, event: ResumeAsked) -> None:  # noqa: ARG002
        self._say(self._ended)

    def _nothing(self, event: Event) -> None:
        """Too late to matter."""

    # --- events: workers and time ---------------------------------------------------------------------------

    def _worker_arrived(self, event: WorkerArrived) -> None:
        self._workers[event.worker] = event
        self._unfit.pop(event.worker, None)
        if event.pinned:
            self._joined.add(event.node)
        self._staff_changed(event.now)

    def _worker_gone(self, event: WorkerGone) -> None:
        if self._workers.pop(event.worker, None) is None:
            return
        self._unfit.pop(event.worker, None)
        self._book.gone(event.worker)
        self._staff_changed(event.now)

    def _staff_changed(self, now: Seconds) -> None:
        self._fit = sorted(worker for worker in self._workers if worker not in self._unfit)
        if self._phase is not Phase.CREATED:
            self._settle_homes()
        self._go_on(now)

    def _order_failed(self, event: OrderFailed) -> None:
        order = self._book.open.get(event.key)
        if order is None or self._book.fault(event.key, event.attempt, event.worker) is not None:
            return
        self._say(self._book.let_go(event.key))
        order.spoilt = True
        if event.refused:
            for key in sorted(self._book.held.get(event.worker, ())):
                self._say(self._book.let_go(key))
                self._book.open[key].spoilt = True
            if event.worker in self._workers:
                self._unfit[event.worker] = event.detail
            self._staff_changed(event.now)
            return
        order.failures += 1
        if order.failures >= FAILED_ATTEMPTS:
            what = f"client {event.key.client}" if event.key.client >= 0 else "it"
            self._end(
                "failed",
                f"round {event.key.round}: the order to {event.key.kind} {what} failed {order.failures} times,"
                f" last on worker {event.worker}: {event.detail}",
            )
            return
        self._go_on(event.now)

    def _time_passed(self, event: TimePassed) -> None:
        if self._wake is not None and event.now >= self._wake:
            self._wake = None  # it has come: another Wake has to be said even for the same time
        if self._deadline_at is not None and event.now >= self._deadline_at:
            self._deadline_at = None
            if len(self._accepted) >= self._needed:
                self._cut()
            elif self._wait_until is None or len(self._eligible()) >= self._needed:
                self._retry(
                    f"had {len(self._accepted)} of the {self._needed} updates it needs at its deadline of "
                    f"{self._settings.deadline:g} s: raise rounds.deadline, lower rounds.quorum, or add workers",
                    event.now,
                )
                return
        if self._wait_until is not None and event.now >= self._wait_until:
            self._waited(event.now)
            return
        self._go_on(event.now)

    def _waited(self, now: Seconds) -> None:
        """Long enough: another sample, if that can help, or the end."""
        why = f"waited {self._settings.wait_for_workers:g} s (rounds.wait_for_workers): {self._obstacle()}"
        self._wait_until = None
        if self._phase is Phase.TRAINING and len(self._eligible()) >= self._needed:
            self._retry(why, now)
        else:
            self._end("failed", why)

    # --- events: replies ------------------------------------------------------------------------------------

    def _initialize_arrived(self, event: InitializeArrived) -> None:
        if event.key not in self._book.open:
            if self._first is not None and event.digest == self._first:
                self._say(AcceptAgain(event.key))
            elif self._committed < 0 and self._first is None:
                self._say(
                    Reject(event.key, NotAsked("this run has not asked for first weights yet: drop them"))
                )
            else:
                self._say(Reject(event.key, Stale("this run has its first weights already: drop these")))
            return
        if self._refuse(event):
            return
        self._book.close(event.key)
        self._first = event.digest
        self._say(Accept(event.key, event.digest))
        self._phase = Phase.HOLDING
        self._go_on(event.now)

    def _update_arrived(self, event: UpdateArrived) -> None:
        key, following = event.key, self._committed + 1
        if (key.round, key.trial) < (following, self._trial):
            self._say(
                Reject(
                    key,
                    Stale(
                        f"round {key.round}, trial {key.trial} is over; round {following} is under way: drop it"
                    ),
                )
            )
        elif (key.round, key.trial) > (following, self._trial):
            self._say(Reject(key, NotAsked(f"round {key.round}, trial {key.trial} has not begun: drop it")))
        elif key.client in self._accepted:
            if self._accepted[key.client] == event.digest:
                self._say(AcceptAgain(key))
            else:
                self._say(
                    Reject(
                        key,
                        AlreadyAccepted(
                            f"client {key.client} sent another update for round {key.round}: drop it"
                        ),
                    )
                )
        elif key not in self._book.open:
            if key.client in self._cohort:
                self._say(
                    Reject(
                        key, Stale(f"round {key.round} has enough updates and was closed without it: drop it")
                    )
                )
            else:
                self._say(
                    Reject(
                        key,
                        NotAsked(f"client {key.client} is not in the cohort of round {key.round}: drop it"),
                    )
                )
        elif not self._refuse(event):
            self._book.close(key)
            self._accepted[key.client] = event.digest
            self._say(Accept(key, event.digest))
            self._go_on(event.now)

    def _evaluation_arrived(self, event: EvaluationArrived) -> None:
        key, scoring = event.key, self._scoring
        if scoring is None or key.round < scoring.round:
            self._say(Reject(key, Stale(f"the evaluation of round {key.round} is over: drop it")))
        elif key in scoring.accepted:
            self._say(AcceptAgain(key))
        elif key not in self._book.open:
            self._say(
                Reject(
                    key,
                    NotAsked(f"this part of the evaluation of round {key.round} is not asked for: drop it"),
                )
            )
        elif not self._refuse(event):
            self._book.close(key)
            scoring.accepted.add(key)
            scoring.open -= 1
            self._say(Accept(key, ""))
            self._go_on(event.now)

    def _refuse(self, event: InitializeArrived | UpdateArrived | EvaluationArrived) -> bool:
        fault = self._book.fault(event.key, event.attempt, event.worker)
        if fault is not None:
            self._say(Reject(event.key, fault))
        return fault is not None

    def _no_room(self, event: InitializeArrived | UpdateArrived | EvaluationArrived) -> None:
        self._say(Reject(event.key, StorageFull(f"the run is paused: {self._reason}: send it again later")))

    def _over(self, event: InitializeArrived | UpdateArrived | EvaluationArrived) -> None:
        self._say(Reject(event.key, Stale("the run is over: drop it")))


Handler: TypeAlias = Callable[[Rounds, "Event"], None]


def _transitions() -> dict[tuple[Phase, type], Callable[..., None]]:
    """What is legal, and what it does: {(phase, event): handler}. A missing entry is the error."""
    asking = (
        Phase.GATHERING,
        Phase.INITIALIZING,
        Phase.TRAINING,
        Phase.HOLDING,
        Phase.SCORING,
    )  # orders may be out
    active = (*asking, Phase.CLOSING)
    rules: list[tuple[tuple[Phase, ...], type, Callable[..., None]]] = [
        ((Phase.CREATED,), Started, Rounds._started),
        # workers and time, the same at any time
        ((Phase.CREATED, *active, Phase.PAUSED), WorkerArrived, Rounds._worker_arrived),
        ((Phase.CREATED, *active, Phase.PAUSED), WorkerGone, Rounds._worker_gone),
        ((*active, Phase.PAUSED), OrderFailed, Rounds._order_failed),
        (active, TimePassed, Rounds._time_passed),
        ((Phase.PAUSED,), TimePassed, Rounds._nothing),
        # replies
        (active, InitializeArrived, Rounds._initialize_arrived),
        (active, UpdateArrived, Rounds._update_arrived),
        (active, EvaluationArrived, Rounds._evaluation_arrived),
        ((Phase.PAUSED,), InitializeArrived, Rounds._no_room),
        ((Phase.PAUSED,), UpdateArrived, Rounds._no_room),
        ((Phase.PAUSED,), EvaluationArrived, Rounds._no_room),
        # what the driver reports of its own work
        ((Phase.CLOSING, Phase.PAUSED), RoundCommitted, Rounds._round_committed),
        ((*asking, Phase.PAUSED), RoundScored, Rounds._round_scored),
        # the user's and the storage's wishes
        ((Phase.CREATED, *asking, Phase.PAUSED), StopAsked, Rounds._stop),
        ((Phase.CLOSING,), StopAsked, Rounds._stop_after_commit),
        (active, PauseAsked, Rounds._pause),
        ((Phase.PAUSED,), PauseAsked, Rounds._pause_again),
        ((Phase.PAUSED,), ResumeAsked, Rounds._resume),
        # afterwards
        ((Phase.ENDED,), WorkerArrived, Rounds._nothing),
        ((Phase.ENDED,), WorkerGone, Rounds._nothing),
        ((Phase.ENDED,), OrderFailed, Rounds._nothing),
        ((Phase.ENDED,), TimePassed, Rounds._nothing),
        ((Phase.ENDED,), RoundCommitted, Rounds._nothing),
        ((Phase.ENDED,), RoundScored, Rounds._nothing),
        ((Phase.ENDED,), StopAsked, Rounds._nothing),
        ((Phase.ENDED,), PauseAsked, Rounds._nothing),
        ((Phase.ENDED,), ResumeAsked, Rounds._say_end_again),
        ((Phase.ENDED,), InitializeArrived, Rounds._over),
        ((Phase.ENDED,), UpdateArrived, Rounds._over),
        ((Phase.ENDED,), EvaluationArrived, Rounds._over),
    ]
    return {(phase, event): handler for phases, event, handler in rules for phase in phases}


TRANSITIONS: Final = _transitions()
