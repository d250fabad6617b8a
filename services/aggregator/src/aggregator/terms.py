"""What the round machine starts from: the run's settings, and what is known of the run after a restart.

Plain frozen values between `experiment` and the store on one side and `rounds` on the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from roundtable.experiment import Experiment, asked_of, needed_of
from roundtable.fleet import Fleet
from roundtable.strategy import Sampler
from roundtable.strategy.part import Seen
from roundtable.types import ClientId, Digest, RunId, Seconds, WorkerId

from aggregator.events import Key

Cohorts = tuple[tuple[ClientId, ...], ...]  # [rounds][participants], for rounds 1, 2, …


@dataclass(frozen=True)
class Settings:
    """What the machine needs of an experiment."""

    run: RunId
    seed: int
    clients: int  # K
    cohort_size: int
    pinned: bool  # clients are nodes with data of their own
    rounds: int
    deadline: Seconds | None
    quorum: float
    oversample: float
    retries: int
    wait_for_workers: Seconds
    every: int  # rounds from one evaluation to the next
    shards: int
    federated: bool
    accuracy: float | None
    patience: int | None
    sampler: Sampler
    participants: Cohorts | None = None  # replay: exactly these, whatever the sampler says
    fleet: Fleet | None = None  # unequal machines; None: all are plain, by the real clock

    @classmethod
    def of(cls, run: RunId, experiment: Experiment, participants: Cohorts | None = None) -> Settings:
        """With `participants` (a replay) nothing cuts a cohort, all machines are plain, and the run ends with
        the last one named.
        """
        rounds, replay, machines = experiment.rounds, participants is not None, experiment.machines
        unequal = machines.clock == "virtual" or machines.profiles
        return cls(
            run=run,
            seed=experiment.seed,
            clients=experiment.clients.count,
            cohort_size=experiment.cohort_size,
            pinned=experiment.partition.kind == "pinned",
            rounds=rounds.count if participants is None else min(rounds.count, len(participants)),
            deadline=None if replay else rounds.deadline,
            quorum=1.0 if replay else rounds.quorum,
            oversample=0.0 if replay else rounds.oversample,
            retries=rounds.retries,
            wait_for_workers=rounds.wait_for_workers,
            every=experiment.evaluation.every,
            shards=experiment.evaluation.shards,
            federated=experiment.evaluation.federated,
            accuracy=experiment.stop.accuracy,
            patience=experiment.stop.patience,
            sampler=experiment.strategy.sampler,
            participants=participants,
            fleet=Fleet(machines, experiment.clients.count, experiment.seed)
            if unequal and not replay
            else None,
        )

    @property
    def virtual(self) -> bool:
        """Whether what counts is when updates would have been in."""
        return self.fleet is not None and self.fleet.virtual

    def cohort_of(self, round_number: int) -> int:
        """How many updates make the round complete."""
        return self.cohort_size if self.participants is None else len(self.participants[round_number - 1])

    def asked(self, round_number: int) -> int:
        """How many clients are asked: the cohort and, with over-sampling, some more."""
        return asked_of(self.cohort_of(round_number), self.oversample)

    def needed(self, round_number: int) -> int:
        """The quorum: with fewer updates a round is never closed."""
        return needed_of(self.cohort_of(round_number), self.quorum)

    def on(self, round_number: int, trial: int, eligible: Sequence[ClientId]) -> Sequence[ClientId]:
        """Who of the eligible has a machine that is on; nobody where they never suffice."""
        if self.fleet is None:
            return eligible
        return self.fleet.on(round_number, trial, eligible, self.needed(round_number))

    def dropped(self, round_number: int, trial: int, clients: Sequence[ClientId]) -> frozenset[ClientId]:
        """Those whose machines lose the update."""
        fleet = self.fleet
        if fleet is None:
            return frozenset()
        return frozenset(client for client in clients if fleet.drops(round_number, trial, client))

    def due(self, round_number: int) -> bool:
        """Whether the weights of this round are evaluated."""
        return round_number % self.every == 0 or round_number == self.rounds

    def verdict(self, committed: int, accuracies: Mapping[int, float | None]) -> str | None:
        """Why a run with these scores, in round order, is finished by `committed`; None: it is not."""
        if committed not in accuracies:
            return None
        latest = accuracies[committed]
        if self.accuracy is not None and latest is not None and latest >= self.accuracy:
            return f"round {committed}: test accuracy {latest:.4f} reached stop.accuracy = {self.accuracy:g}"
        if self.patience is not None:
            known = [accuracy for accuracy in accuracies.values() if accuracy is not None]
            if known and len(known) - 1 - known.index(max(known)) >= self.patience:
                return (
                    f"round {committed}: test accuracy has not risen above {max(known):.4f}"
                    f" for {self.patience} evaluations (stop.patience)"
                )
        return f"all {self.rounds} rounds are done" if committed >= self.rounds else None


class Issued(NamedTuple):
    """The latest Give of a key."""

    attempt: int
    worker: WorkerId


@dataclass(frozen=True)
class Recovered:
    """What the store knows of a run that goes on: what commands said. Defaults: nothing.

    `trial`, `cohort` and `accepted` are of the latest BeginRound, and only if its round is `committed` + 1;
    accepted updates of earlier trials are not among them. Where no trial of it is open, `trial` is the one to
    be drawn. Failed attempts are counted anew.
    """

    committed: int = -1  # last RoundCommitted; -1: not even the first weights
    initialized: Digest | None = None  # the accepted initialize reply, while round 0 is not committed
    accuracies: Mapping[int, float | None] = field(default_factory=dict)  # every RoundScored
    trial: int = 0
    cohort: tuple[ClientId, ...] = ()
    accepted: Mapping[ClientId, Digest] = field(default_factory=dict)
    arrivals: Mapping[ClientId, Seconds] = field(default_factory=dict)  # virtual clock: of those accepted
    evaluated: frozenset[Key] = frozenset()  # accepted evaluations of round `committed`
    issued: Mapping[Key, Issued] = field(default_factory=dict)  # the latest Give of each key that is not in
    lost: int = 0
    homes: Mapping[ClientId, WorkerId] = field(default_factory=dict)  # the latest Place
    nodes: Mapping[str, ClientId] = field(default_factory=dict)  # the Pin: node name → client
    history: Mapping[ClientId, Seen] = field(default_factory=dict)  # each client's last committed round
