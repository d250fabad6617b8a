"""The run that is under way: its machine, and the facts that its orders, transfers and views need, in memory.

Changed by `conductor` alone, one turn at a time. Everything here is in the store too, or is recomputed on
recovery.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from roundtable.codec import form_of
from roundtable.experiment import Experiment
from roundtable.fleet import Conditions
from roundtable.messages import Initialized, Order, Plan, RoundRecord, RunState
from roundtable.types import ClientId, Digest, RunId, Seconds, WorkerId
from roundtable.weights import Manifest

from aggregator.checks import update_groups
from aggregator.events import Key
from aggregator.feed import Feed
from aggregator.files import RunFiles
from aggregator.points import Points
from aggregator.recover import Known
from aggregator.rounds import Rounds
from aggregator.rows import RunRow
from aggregator.stopwatch import Stopwatch


@dataclass
class ActiveRun:
    row: RunRow
    files: RunFiles
    machine: Rounds
    feed: Feed
    points: Points
    initialized: Initialized | None
    states: dict[ClientId, Digest]
    messages: dict[int, Digest] = field(
        default_factory=dict
    )  # of the last committed rounds: what clients fetch
    records: dict[int, RoundRecord] = field(default_factory=dict)
    head: Digest | None = None
    first_order: Seconds | None = None
    begun: tuple[int, int] = (-1, 0)  # round and trial under way, as recorded
    watch: Stopwatch = field(default_factory=Stopwatch)  # of the round under way
    bytes_down: int = 0  # since the last commit
    took_part: set[WorkerId] = field(default_factory=set)
    sent: dict[WorkerId, Digest] = field(default_factory=dict)  # the global message that each had last
    recording: ClientId | None = None  # whose update the machine has accepted and the store has not
    shown: RunState = "waiting"
    reason: str | None = None

    @classmethod
    def of(cls, known: Known, files: RunFiles, machine: Rounds, feed: Feed, points: Points) -> ActiveRun:
        run = cls(known.row, files, machine, feed, points, known.row.initialized, dict(known.states))
        for commit in known.commits:
            run.records[commit.round] = commit.record
            run.head = commit.entry_hash
        run.messages = {commit.round: commit.message for commit in known.commits[-2:]}
        run.first_order = known.row.first_order
        if (taken := known.taken) is not None:
            run.begun = (known.recovered.committed + 1, known.begun.trial if known.begun else 0)
            run.watch, run.bytes_down = Stopwatch(taken.started, taken.seconds), taken.bytes_down
        run.took_part = set(known.workers)
        run.describe()
        return run

    @property
    def id(self) -> RunId:
        return self.row.id

    @property
    def experiment(self) -> Experiment:
        return self.row.experiment

    def describe(self) -> None:
        """Once the first weights are accepted: what updates and states have to look like."""
        self.manifest: Manifest | None = None
        self.expected = form_of({})
        self.update_limit = 0
        if self.initialized is not None:
            self.manifest = self.initialized.manifest
            self.expected = form_of(update_groups(self.manifest, self.experiment.strategy))
            self.update_limit = self.expected.size_limit

    def committed(self, record: RoundRecord, message: Digest, states: dict[ClientId, Digest]) -> None:
        self.records[record.round] = record
        self.messages = {record.round - 1: self.messages.get(record.round - 1, ""), record.round: message}
        self.states.update(states)
        self.head = record.entry_hash
        self.bytes_down = 0
        self.tell_round(record)
        if record.round:
            self.points.event("round", f"round {record.round}", self.id, record.round)

    def tell_round(self, record: RoundRecord) -> None:
        """Committed, or scored since: to watchers and to the database of points."""
        self.records[record.round] = record
        self.feed.round_changed(record)
        self.points.round(self.id, self.records, record.round, self.first_order)

    @property
    def paused(self) -> bool:
        return self.shown == "paused"

    def count_down(self, nbytes: int) -> None:
        """Weights or a state have been sent to a worker."""
        self.bytes_down += nbytes

    @property
    def arrived(self) -> tuple[ClientId, ...]:
        """Whose updates of the round under way are in for good."""
        return tuple(client for client in self.machine.arrived if client != self.recording)

    @property
    def done(self) -> int:
        """The last committed round, 0 where there is none."""
        return max(self.machine.committed, 0)

    def order(self, key: Key, attempt: int) -> Order:
        known = self.initialized
        weights = None
        if key.kind != "initialize":
            weights = self.messages[key.round if key.kind == "evaluate" else key.round - 1]
        return Order(
            id=key.order_id(self.id, attempt),
            kind=key.kind,
            run=self.id,
            round=key.round,
            attempt=attempt,
            client=key.client if key.client >= 0 else None,
            shard=key.shard if key.shard >= 0 else None,
            weights=weights,
            state=self.states.get(key.client) if key.kind == "train" else None,
            machine=self._machine(key),
            task_hash=known.task_hash if known else None,
            data_hash=known.data_hash if known else None,
        )

    def _machine(self, key: Key) -> Conditions | None:
        """By the real clock: what the worker is to act out for this client."""
        fleet = self.machine.fleet
        if key.kind != "train" or fleet is None or fleet.virtual:
            return None
        return fleet.conditions(key.round, key.trial, key.client)

    @property
    def plan(self) -> Plan:
        return Plan(
            run=self.id,
            experiment=self.experiment,
            arrays=self.initialized.arrays if self.initialized else None,
            pinned_clients=dict(self.machine.pinned_clients),
        )
