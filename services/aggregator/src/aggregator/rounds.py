"""The round, as a pure state machine: events in, commands out, nothing else.

No clock, no asyncio, no I/O and no chance but the strategy's seeded sampler: the same events give the same
commands. Time arrives in events; the driver (`conductor`) carries the commands out, in order, and reports
what came of them.

Here are the phases, the table of what is legal in each, and what views may ask. `facts` is the state (with
`book`, the open orders, and `staff`, who is there). The table's handlers are `course` (the run's own events),
`attendance` (workers), `answers` (replies) and `pausing`: each changes the facts and then calls
`progress.go_on`, which does whatever the facts allow by now: `asking` says what is wanted next, `dealing` who
gets it, `waiting` what shows.

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
              and a new sample is asked, `retries` times; then the run fails, and a resume asks the next.
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
worker, a refusal, a failure and a restart are one case. A worker that comes takes over, under the next
attempt, what others were given last, until it has its share of what is open. A key that fails FAILED_ATTEMPTS
times fails the run; a worker that refuses is unfit, and gets nothing of this run until it arrives again.

Waiting is not a phase but a condition that any phase can be in: something is wanted, nobody who could do it
is there, and without it the phase cannot end. It shows (Show "waiting", with the reason), it has its time
(Wake), after which the run fails naming the remedy, and the arrival of a worker ends it; the round goes on
where it was, its deadline anew.

The virtual clock (`machines.clock`). A round then takes in every update that its cohort's machines do not
lose, each with the time at which it would have been in. Once all are there `progress` lets them come in that
order, under the rules above; no deadline is waited for. Waiting for workers is real all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from roundtable.fleet import Fleet
from roundtable.types import ClientId, WorkerId

from aggregator import answers, attendance, course, pausing
from aggregator.events import (
    Command,
    EvaluationArrived,
    Event,
    InitializeArrived,
    OrderFailed,
    PauseAsked,
    ResumeAsked,
    RoundCommitted,
    RoundScored,
    Started,
    StopAsked,
    TimePassed,
    UpdateArrived,
    WorkerArrived,
    WorkerGone,
)
from aggregator.facts import Facts, Phase
from aggregator.terms import Recovered, Settings


class Rounds:
    """One run. `handle` takes one event at a time; the properties are for views and change nothing."""

    def __init__(self, settings: Settings, recovered: Recovered | None = None) -> None:
        self._facts = Facts(settings, recovered or Recovered())

    def handle(self, event: Event) -> list[Command]:
        """What follows from one event. Raises IllegalTransition (a bug) where the table has no entry."""
        facts = self._facts
        handler = TRANSITIONS.get((facts.phase, type(event)))
        if handler is None:
            raise facts.illegal(event)
        facts.out = []
        handler(facts, event)
        out, facts.out = facts.out, []
        return out

    # --- for views ---------------------------------------------------------------------------------------

    @property
    def phase(self) -> Phase:
        return self._facts.phase

    @property
    def reason(self) -> str | None:
        """Why it waits, is paused or ended."""
        if self._facts.ended is not None:
            return self._facts.ended.reason
        return self._facts.shown.reason if self._facts.shown is not None else None

    @property
    def committed(self) -> int:
        """The last committed round; -1 before the first weights are."""
        return self._facts.under.number - 1

    @property
    def round(self) -> int:
        """The round under way; after the last one, still the last."""
        return min(self._facts.under.number, self._facts.settings.rounds)

    @property
    def trial(self) -> int:
        return self._facts.under.trial

    @property
    def cohort(self) -> tuple[ClientId, ...]:
        """Who is asked in the round under way; empty until it begins."""
        return self._facts.under.cohort

    @property
    def arrived(self) -> tuple[ClientId, ...]:
        """Whose updates of the round under way are in, ascending."""
        return tuple(sorted(self._facts.under.accepted))

    @property
    def homes(self) -> Mapping[ClientId, WorkerId]:
        return self._facts.homes

    @property
    def fleet(self) -> Fleet | None:
        """Unequal machines; None: all are plain, by the real clock."""
        return self._facts.settings.fleet

    @property
    def pinned_clients(self) -> Mapping[str, ClientId]:
        """Node name → client; empty in a portable run, and until every node has been there once."""
        return dict(self._facts.staff.nodes)

    def node_of(self, worker: WorkerId) -> str | None:
        """Its node's name, while it is there."""
        known = self._facts.staff.present.get(worker)
        return None if known is None else known.node


def _transitions() -> dict[tuple[Phase, type], Callable[[Facts, Any], None]]:
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
    rules: list[tuple[list[Phase], type, Callable[[Facts, Any], None]]] = [
        (created, Started, course.started),
        (created + active + paused, WorkerArrived, attendance.worker_arrived),
        (created + active + paused, WorkerGone, attendance.worker_gone),
        (active + paused, OrderFailed, attendance.order_failed),
        (active, TimePassed, course.time_passed),
        (active, InitializeArrived, answers.initialize_arrived),
        (active, UpdateArrived, answers.update_arrived),
        (active, EvaluationArrived, answers.evaluation_arrived),
        (closing + paused, RoundCommitted, course.round_committed),
        (asking + paused, RoundScored, course.round_scored),
        (created + asking + paused, StopAsked, course.stop),
        (closing, StopAsked, course.stop_after_commit),
        (active, PauseAsked, pausing.pause),
        (paused, PauseAsked, pausing.pause_again),
        (paused, ResumeAsked, pausing.resume),
        (paused + ended, TimePassed, course.nothing),
        *(
            (paused, reply, answers.no_room)
            for reply in (InitializeArrived, UpdateArrived, EvaluationArrived)
        ),
        *((ended, reply, answers.over) for reply in (InitializeArrived, UpdateArrived, EvaluationArrived)),
        *((ended, late, course.nothing) for late in (WorkerArrived, WorkerGone, OrderFailed)),
        *((ended, late, course.nothing) for late in (RoundCommitted, RoundScored, StopAsked, PauseAsked)),
        (ended, ResumeAsked, course.say_end_again),
    ]
    return {(phase, event): handler for phases, event, handler in rules for phase in phases}


TRANSITIONS: Final = _transitions()
