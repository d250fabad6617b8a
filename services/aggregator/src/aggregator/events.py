"""What the round state machine is told and what it answers: plain frozen values, no behaviour.

Every event carries its own time where time matters (`now`, seconds on the driver's clock): the machine has
none. An order's key names what is asked for; its attempt says how often it has been issued. The order id on
the wire is `key.order_id(run, attempt)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from roundtable.errors import RoundtableError
from roundtable.strategy.part import Seen
from roundtable.types import ClientId, Digest, OrderId, RunId, Seconds, WorkerId

Kind: TypeAlias = Literal["initialize", "train", "evaluate"]


@dataclass(frozen=True, order=True)
class Key:
    """What is asked for. `trial` counts the samples drawn for a round (from 1): a retried round asks anew."""

    round: int
    kind: Kind
    trial: int = 1
    client: ClientId = -1  # train; evaluate: federated
    shard: int = -1  # evaluate: centralized

    def order_id(self, run: RunId, attempt: int) -> OrderId:
        subject = f"c{self.client}" if self.client >= 0 else f"s{self.shard}" if self.shard >= 0 else "x"
        return f"{run}.{self.round}.{self.trial}.{self.kind}.{subject}.{attempt}"


# --- events -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WorkerArrived:
    """Joined, or came back after it was lost. `node` matters where its data is pinned."""

    worker: WorkerId
    node: str
    pinned: bool
    now: Seconds


@dataclass(frozen=True)
class WorkerGone:
    """It holds nothing any more: no Withdraw is said for its orders."""

    worker: WorkerId
    now: Seconds
    lost: bool = True  # False: it left in good order


@dataclass(frozen=True)
class Started:
    """The run becomes the active one (also after a resume)."""

    now: Seconds


@dataclass(frozen=True)
class InitializeArrived:
    """The initialize order's reply has been checked and spooled."""

    key: Key
    attempt: int
    worker: WorkerId
    digest: Digest
    now: Seconds


@dataclass(frozen=True)
class UpdateArrived:
    """An update has been received, checked and spooled; it counts only once the machine answers Accept."""

    key: Key
    attempt: int
    worker: WorkerId
    digest: Digest
    now: Seconds
    arrival: Seconds = 0.0  # virtual clock: when it would have been in, after its client was asked


@dataclass(frozen=True)
class EvaluationArrived:
    key: Key
    attempt: int
    worker: WorkerId
    now: Seconds


@dataclass(frozen=True)
class OrderFailed:
    """The worker could not carry it out.

    `refused`: nor will it any other order of this run (it has another task or data).
    """

    key: Key
    attempt: int
    worker: WorkerId
    refused: bool
    detail: str
    now: Seconds


@dataclass(frozen=True)
class RoundCommitted:
    """The driver has folded the round Close named and written its ledger entry (0: the first weights)."""

    round: int
    now: Seconds
    seen: Mapping[ClientId, Seen] = field(default_factory=dict)  # what samplers are told of its participants


@dataclass(frozen=True)
class RoundScored:
    """The driver has summed the evaluation that Score asked for; accuracy is None where the task has none."""

    round: int
    accuracy: float | None
    now: Seconds


@dataclass(frozen=True)
class TimePassed:
    """The time asked for by Wake has come (or any later one): deadlines are looked at."""

    now: Seconds


@dataclass(frozen=True)
class StopAsked:
    reason: str
    now: Seconds


@dataclass(frozen=True)
class PauseAsked:
    """Storage is full or failing: accept nothing, close nothing, lose nothing.

    Commands that could not be carried out are said again after ResumeAsked (and some that could: carrying one
    out twice changes nothing). An Accept is not, for its worker has been told no: `unrecorded` names its key,
    and it is wanted again.
    """

    reason: str
    now: Seconds
    unrecorded: tuple[Key, ...] = ()


@dataclass(frozen=True)
class ResumeAsked:
    now: Seconds


Event: TypeAlias = (
    WorkerArrived
    | WorkerGone
    | Started
    | InitializeArrived
    | UpdateArrived
    | EvaluationArrived
    | OrderFailed
    | RoundCommitted
    | RoundScored
    | TimePassed
    | StopAsked
    | PauseAsked
    | ResumeAsked
)

# --- commands -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pin:
    """Record which node is which client, for the whole run; before the first order."""

    nodes: Mapping[str, ClientId]


@dataclass(frozen=True)
class BeginRound:
    """Record the cohort before any of its orders goes out."""

    round: int
    trial: int
    cohort: tuple[ClientId, ...]  # all that are asked, over-sampling included


@dataclass(frozen=True)
class Give:
    """The worker should hold this order."""

    worker: WorkerId
    key: Key
    attempt: int


@dataclass(frozen=True)
class Withdraw:
    """The worker should no longer hold this order."""

    worker: WorkerId
    key: Key
    attempt: int


@dataclass(frozen=True)
class Accept:
    """Answer to …Arrived: record it durably, then tell the worker; the first one of its key.

    An evaluation's digest is "".
    """

    key: Key
    digest: Digest


@dataclass(frozen=True)
class AcceptAgain:
    """Answer to …Arrived: the same content is in already; a success that changes nothing."""

    key: Key


@dataclass(frozen=True)
class Reject:
    """Answer to …Arrived: with this error (Stale, Superseded, NotAsked, AlreadyAccepted, NotPossible)."""

    key: Key
    error: RoundtableError


@dataclass(frozen=True)
class Close:
    """Fold these clients' updates, in this order, commit the round, then say RoundCommitted.

    Round 0: keep the first weights.
    """

    round: int
    trial: int
    participants: tuple[ClientId, ...]
    late: tuple[ClientId, ...]  # asked, not in
    lost: int  # orders that had to be issued again
    dropped: int = 0  # of those late: their machines lost the update (machines.profiles)
    virtual_seconds: Seconds | None = None  # virtual clock: how long the round took, retries included


@dataclass(frozen=True)
class Score:
    """Every evaluation of this round is in: sum it up, then say RoundScored."""

    round: int


@dataclass(frozen=True)
class Wake:
    """Say TimePassed at this time, once; replaces the last one. None: no need."""

    at: Seconds | None


@dataclass(frozen=True)
class Show:
    """The run's visible state changed."""

    state: Literal["waiting", "initializing", "running", "paused"]
    reason: str | None = None


@dataclass(frozen=True)
class Place:
    """Where clients are placed from now on (for the eye; Give is what counts)."""

    homes: Mapping[ClientId, WorkerId]


@dataclass(frozen=True)
class End:
    """The run is over with the weights of `round` (-1: there are none yet)."""

    state: Literal["finished", "failed", "stopped"]
    round: int
    reason: str
    spent: bool = False  # the round under way missed its quorum for the last time

    @property
    def discards(self) -> bool:
        """Whether what was begun after `round` counts no more. Else a resume goes on with it."""
        return self.spent or self.state == "finished"


Command: TypeAlias = (
    Pin
    | BeginRound
    | Give
    | Withdraw
    | Accept
    | AcceptAgain
    | Reject
    | Close
    | Score
    | Wake
    | Show
    | Place
    | End
)
