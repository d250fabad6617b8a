"""What the store gives and takes: frozen values, one for each kind of row."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Literal

from pydantic import ValidationError
from roundtable.errors import CorruptStore
from roundtable.experiment import Experiment
from roundtable.faults import faults
from roundtable.messages import Account, Evaluated, Initialized, Join, RoundRecord, RunState
from roundtable.types import ClientId, Digest, RunId, Seconds, WorkerId


@dataclass(frozen=True)
class RunRow:
    id: RunId
    experiment: Experiment
    experiment_hash: Digest
    participants: tuple[tuple[ClientId, ...], ...] | None  # replay
    created: Seconds
    state: RunState
    reason: str | None
    first_order: Seconds | None
    ended: Seconds | None
    initial: Digest | None  # the first weights, once accepted
    initialized: Initialized | None  # with `initial`
    pinned: dict[str, ClientId]  # node → client
    environment: dict[str, str]


@dataclass(frozen=True)
class OpenRound:
    """The round under way: begun, neither committed nor discarded."""

    round: int
    trial: int
    cohort: tuple[ClientId, ...]


@dataclass(frozen=True)
class Taken:
    """What a round had taken by the last thing that was recorded in it."""

    started: Seconds  # its first trial: wall clock
    seconds: Seconds
    bytes_down: int


@dataclass(frozen=True)
class Accepted:
    """An update that counts: checked, in the spool, recorded."""

    round: int
    trial: int
    client: ClientId
    digest: Digest
    worker: WorkerId
    attempt: int
    nbytes: int
    account: Account
    state_digest: Digest | None
    seconds: Seconds  # that the round had taken by then
    bytes_down: int  # that had been sent in it


@dataclass(frozen=True)
class EvaluationRow:
    """One accepted evaluation: of a shard (client -1) or of a client's held-out examples (shard -1)."""

    round: int
    client: ClientId
    shard: int
    worker: WorkerId
    attempt: int
    evaluated: Evaluated
    trial: int = 1


@dataclass(frozen=True)
class Commit:
    """All that makes a round count, written at once."""

    round: int
    trial: int
    weights: Digest
    message: Digest
    server: Digest | None
    entry: str  # canonical JSON of the ledger entry
    entry_hash: Digest
    record: RoundRecord
    states: Mapping[ClientId, Digest] = field(default_factory=dict)  # of the participants


@dataclass(frozen=True)
class CommitRow:
    """A committed round as it is known now."""

    round: int
    trial: int
    weights: Digest
    message: Digest
    server: Digest | None
    entry: str
    entry_hash: Digest
    record_json: str
    scored: bool
    accuracy: float | None

    @cached_property
    def record(self) -> RoundRecord:
        return RoundRecord.model_validate_json(self.record_json)


@dataclass(frozen=True)
class AttemptRow:
    """An order that was given; -1 stands for no client, no shard, as in events.Key."""

    round: int
    kind: Literal["initialize", "train", "evaluate"]
    trial: int
    client: ClientId
    shard: int
    attempt: int
    worker: WorkerId


@dataclass(frozen=True)
class WorkerRow:
    id: WorkerId
    join: Join
    state: Literal["present", "lost", "left"]


@dataclass(frozen=True)
class Wanted:
    """The files of a run that the store still names; all others may go."""

    weights: Collection[Digest]
    messages: Collection[Digest]
    server: Collection[Digest]
    states: Collection[Digest]
    rounds: Collection[tuple[int, int]]  # committed (round, trial) whose updates are kept
    open: tuple[
        int, int
    ]  # (round, trial) under way, or the next to be: spooled updates from here on are not judged
    accepted: Collection[tuple[ClientId, Digest]]  # of the round under way


# --- from SQLite ----------------------------------------------------------------------------------------


@lru_cache(maxsize=16)  # frozen, and read again several times a round
def _experiment(text: str) -> Experiment:
    return Experiment.model_validate_json(text)


@lru_cache(maxsize=16)
def _initialized(text: str) -> Initialized:
    return Initialized.model_validate_json(text)


def run_row(row: sqlite3.Row) -> RunRow:
    """Raises CorruptStore for an experiment that is none here: what is allowed has changed since."""
    try:
        experiment = _experiment(row["experiment"])
    except ValidationError as error:
        raise CorruptStore(
            f"run {row['id']} has an experiment that this aggregator does not take"
            f" ({'; '.join(faults(error))}): use the aggregator that wrote it, or another STATE_DIR"
        ) from None
    participants = None if row["participants"] is None else json.loads(row["participants"])
    return RunRow(
        id=row["id"],
        experiment=experiment,
        experiment_hash=row["experiment_hash"],
        participants=None if participants is None else tuple(tuple(clients) for clients in participants),
        created=row["created"],
        state=row["state"],
        reason=row["reason"],
        first_order=row["first_order"],
        ended=row["ended"],
        initial=row["initial"],
        initialized=None if row["initialized"] is None else _initialized(row["initialized"]),
        pinned=json.loads(row["pinned"]),
        environment=json.loads(row["environment"]),
    )


def accepted_row(row: sqlite3.Row) -> Accepted:
    return Accepted(
        row["round"],
        row["trial"],
        row["client"],
        row["digest"],
        row["worker"],
        row["attempt"],
        row["nbytes"],
        Account.model_validate_json(row["account"]),
        row["state_digest"],
        row["seconds"],
        row["bytes_down"],
    )


def commit_row(row: sqlite3.Row) -> CommitRow:
    return CommitRow(
        row["round"],
        row["trial"],
        row["weights"],
        row["message"],
        row["server"],
        row["entry"],
        row["entry_hash"],
        row["record"],
        bool(row["scored"]),
        row["accuracy"],
    )
