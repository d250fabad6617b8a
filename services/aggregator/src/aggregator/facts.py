"""What the round machine knows of its run and what it has said: the phase, the round under way, the scores.

State for `rounds`, whose docstring tells the phases; handlers change it and `progress` draws conclusions. Who
is there is in `staff`, which orders are open in `book`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Literal

from roundtable.errors import IllegalTransition
from roundtable.types import ClientId, Digest, Seconds, WorkerId

from aggregator.book import Book
from aggregator.events import Command, End, Event, Key, Show, Wake
from aggregator.staff import Staff
from aggregator.terms import Recovered, Settings


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


class Facts:
    """One run's. `out` gathers the commands that the event being handled leads to."""

    def __init__(self, settings: Settings, known: Recovered) -> None:
        self.settings = settings
        self.phase = Phase.CREATED
        self.paused_in = Phase.CREATED
        self.staff = Staff(settings.clients, settings.pinned, known.nodes, known.homes)
        self.book = Book(known.issued)
        self.history = dict(known.history)
        self.first = known.initialized
        self.under = Under(
            known.committed + 1,
            known.trial or 1,
            known.cohort,
            dict(known.accepted),
            known.lost,
            arrivals=dict(known.arrivals),
        )
        self.scores = dict(sorted(known.accuracies.items()))
        self.evaluated = known.evaluated  # before a restart
        self.scoring: Scoring | None = None
        self.finished: str | None = None  # a stop condition is met
        self.stopping: str | None = None  # a stop waits for the commit
        self.trouble: str | None = None  # why it is paused
        self.wait_until: Seconds | None = None
        # what was said
        self.out: list[Command] = []
        self.shown: Show | None = None
        self.wake: Seconds | None = None
        self.ended: End | None = None

    # --- what follows from them --------------------------------------------------------------------------

    @property
    def committed(self) -> int:
        """The last committed round; -1 before the first weights are."""
        return self.under.number - 1

    @property
    def target(self) -> int:
        """How many updates end the round under way."""
        return min(self.settings.cohort_of(self.under.number), len(self.under.cohort))

    @property
    def needed(self) -> int:
        """Its quorum."""
        return self.settings.needed(self.under.number)

    @property
    def homes(self) -> dict[ClientId, WorkerId]:
        return dict(sorted(self.staff.homes.items()))

    def missing(self) -> list[ClientId]:
        """Whose updates are to come; by the virtual clock nobody trains for an update that gets lost."""
        under, settings = self.under, self.settings
        lost = settings.dropped(*under.place, under.cohort) if settings.virtual else ()
        return [client for client in under.cohort if client not in under.accepted and client not in lost]

    def illegal(self, event: Event) -> IllegalTransition:
        return IllegalTransition(
            f"run {self.settings.run}: {event!r} while {self.phase.value}, round {self.under.number}"
        )

    # --- saying ------------------------------------------------------------------------------------------

    def say(self, *commands: Command | None) -> None:
        self.out += [command for command in commands if command is not None]

    def show(self, show: Show) -> None:
        if show != self.shown:
            self.shown = show
            self.say(show)

    def wake_at(self, at: Seconds | None) -> None:
        if at != self.wake:
            self.wake = at
            self.say(Wake(at))

    def withdraw(self, *kinds: str) -> None:
        for key in sorted(key for key in self.book.open if key.kind in kinds):
            self.say(self.book.close(key))

    def end(
        self, state: Literal["finished", "failed", "stopped"], reason: str, *, spent: bool = False
    ) -> None:
        self.withdraw("initialize", "train", "evaluate")
        self.phase = Phase.ENDED
        self.wake_at(None)
        self.ended = End(state, self.committed, reason, spent)
        self.say(self.ended)
