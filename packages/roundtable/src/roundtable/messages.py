"""Everything that crosses the wire as JSON, and the version of it.

Weights travel as safetensors (see codec); this module is the control side. Requests refuse unknown fields;
replies may grow. docs/protocol.md tells the same story for someone writing a worker in another language.
"""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from roundtable.experiment import Experiment
from roundtable.fleet import Conditions
from roundtable.ledger import Count, Hash
from roundtable.types import ClientId, Digest, OrderId, RunId, Seconds, WorkerId
from roundtable.weights import ArraySpec, Manifest

PROTOCOL: Final = 1
POLL_SECONDS: Final = 10.0  # how long a poll waits when there is nothing to say
WORDS: Final = 1000  # characters


def one_line(text: str) -> str:
    """As it can be stored, sent and shown in a terminal, which half a surrogate pair and an escape cannot."""
    if len(text) <= WORDS and text.isprintable():
        return text
    line = " ".join(text.split())[: WORDS + 1]
    line = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in line)
    return line if len(line) <= WORDS else line[: WORDS - 1] + "…"


# Somebody's, a task's for example: whether they have come or are about to be sent.
Words = Annotated[
    str, AfterValidator(one_line), Field(description=f"text, kept as one line of at most {WORDS} characters")
]
Name = Annotated[str, Field(min_length=1, max_length=200)]
SourceHash = Annotated[Hash, Field(description="64 lower-case hexadecimal digits")]  # the ledger has it too


class Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Reply(Message):
    """What the aggregator says: a newer one may say more than its reader knows."""

    model_config = ConfigDict(extra="ignore")


# --- joining ------------------------------------------------------------------------------------------------


class PinnedData(Message):
    """What a node's own folder holds, counted on the node; the samples never leave it."""

    examples: Annotated[int, Field(gt=0)]
    labels: dict[Words, Count]  # label → how many


class Join(Message):
    """A worker's introduction. The same `instance`, made when the process starts, gets the same worker id."""

    protocol: int
    instance: Annotated[str, Field(pattern=r"^[0-9a-f]{16,64}$")]
    host: Name
    node: Name
    arch: Name
    cpus: Annotated[int, Field(gt=0)]
    memory_bytes: Count
    accelerator: Words | None = None  # "GPU: NVIDIA …" or nothing
    pinned: PinnedData | None = None
    disk_free_bytes: Count | None = None  # on the disk that the worker was started on
    time: float | None = None  # Unix seconds on the worker's clock
    code: SourceHash | None = None  # of what it runs: sources.py
    trouble: Words | None = None  # why it cannot take part


class Joined(Reply):
    worker: WorkerId
    session_token: str
    lost_after: Seconds  # silent for longer than this, a worker is lost
    poll_seconds: Seconds
    time: float | None = None  # Unix seconds on the aggregator's clock
    warnings: tuple[str, ...] = ()  # for the worker's log: its clock is off, its disk is full


# --- orders -------------------------------------------------------------------------------------------------


class Order(Reply):
    """What a worker is asked to do. `round` counts from 1; 0 belongs to initialize and its evaluation.

    `weights` is the content hash of the round's global message (groups `weights` and, with some strategies,
    `broadcast`), `state` that of the client's own state.
    """

    id: OrderId
    kind: Literal["initialize", "train", "evaluate", "stop"]
    run: RunId
    round: Count = 0
    attempt: Annotated[int, Field(ge=1)] = 1
    client: ClientId | None = None  # train; evaluate: this client's held-out examples
    shard: Count | None = None  # evaluate: this shard of the task's test set
    weights: Digest | None = None
    state: Digest | None = None
    machine: Conditions | None = None  # train: what this client's is like this time, to be acted out
    task_hash: Digest | None = None  # nothing before the run is initialized
    data_hash: Digest | None = None
    head: Digest | None = None  # stop: the ledger's last entry


class Plan(Reply):
    """What all orders of a run have in common; a worker fetches it once."""

    run: RunId
    experiment: Experiment
    arrays: tuple[ArraySpec, ...] | None = None  # nothing before the run is initialized
    pinned_clients: dict[str, ClientId] = {}  # node name → client

    @property
    def manifest(self) -> Manifest | None:
        return None if self.arrays is None else Manifest(self.arrays)


class Poll(Message):
    """Which orders the worker holds: queued, running or being sent."""

    holding: tuple[Name, ...] = ()
    doing: Words | None = None  # for the eye: "training client 3", "waiting"
    cpu_seconds: float = 0.0  # of the process, since it started
    memory_bytes: Count = 0  # resident


class PollReply(Reply):
    """The difference between what the worker holds and what it should hold."""

    give: tuple[Order, ...] = ()
    cancel: tuple[OrderId, ...] = ()
    head: Digest | None = None  # of the active run's ledger


class Evaluated(Message):
    """Sums over the shard's or the client's examples; they add up over shards and clients alike."""

    num_examples: Count
    sums: dict[Words, float | list[float]]
    seconds: float = 0.0


class Personal(Message):
    """A client's held-out examples, evaluated with the round's global weights and with its own after training
    (evaluation.personalized)."""

    before: Evaluated
    after: Evaluated


class Account(Message):
    """What carrying out an order cost, told by the worker itself (metadata `account` of an update)."""

    num_examples: Count
    num_steps: Count
    loss: float | None = None  # mean over the examples seen in the last local epoch
    metrics: dict[Words, float] = {}
    cpu_seconds: float = 0.0  # of the training thread and TensorFlow's, for this order
    waiting_seconds: float = 0.0  # from the order's arrival to its start
    fetching_seconds: float = 0.0  # weights and state
    training_seconds: float = 0.0
    sending_seconds: float = 0.0  # of this worker's previous update: its own is not known yet
    bytes_in: Count = 0  # since the previous account
    bytes_out: Count = 0
    peak_memory_bytes: Count = 0  # resident, since the process started
    personal: Personal | None = None


class Initialized(Message):
    """Metadata `initialized` of the reply to an initialize order; the body holds the first `weights`."""

    arrays: tuple[ArraySpec, ...]
    task_hash: SourceHash
    data_hash: SourceHash
    train_examples: Count
    test_examples: Count
    metrics: tuple[Words, ...]  # names that evaluations will report

    @cached_property
    def manifest(self) -> Manifest:
        return Manifest(self.arrays)


class UpdateReply(Reply):
    duplicate: bool = False  # the same content had been accepted before; nothing changed
    give: tuple[Order, ...] = ()  # what came up while the reply waited, as in PollReply
    waited: Seconds = 0.0  # for it


class OrderResult(Message):
    """The reply to an order that sends no arrays, or that could not be carried out."""

    status: Literal["done", "refused", "failed"]
    evaluated: Evaluated | None = None
    problem: Words | None = None  # the type URI of a refusal
    detail: Words | None = None


# --- runs ---------------------------------------------------------------------------------------------------

RunState = Literal["queued", "waiting", "initializing", "running", "paused", "finished", "failed", "stopped"]
ENDED: Final[frozenset[str]] = frozenset({"finished", "failed", "stopped"})


class CreateRun(Message):
    experiment: Experiment
    again: bool = False  # start anew even when the same experiment has a run
    participants: tuple[tuple[ClientId, ...], ...] | None = None  # replay: who took part, round by round
    start_workers: Annotated[int, Field(ge=1)] | None = None  # begin when so many are there, or in 30 s


class WorkerAccount(Reply):
    """One worker's part in a round, summed over its clients."""

    clients: tuple[ClientId, ...]
    cpu_seconds: float
    waiting_seconds: float
    training_seconds: float
    sending_seconds: float
    bytes_in: int
    bytes_out: int
    peak_memory_bytes: int


class Gain(Reply):
    """Metrics of held-out examples with the round's global weights, and with the client's own after it."""

    num_examples: int
    before: dict[str, float]
    after: dict[str, float]


class RoundRecord(Reply):
    """One committed round. `accuracy`, `loss`: of the task's test set after it; absent until evaluated."""

    round: int
    attempt: int = 1
    participants: tuple[ClientId, ...] = ()
    late: int = 0  # asked, but cut by the deadline or by over-sampling
    dropped: int = 0  # asked, and the update got lost on the way (machines.profiles)
    lost: int = 0  # orders issued again because their worker was lost or failed
    accuracy: float | None = None
    loss: float | None = None
    metrics: dict[str, float] = {}
    federated: dict[str, float] = {}  # the same metrics over the clients' held-out examples
    personalized: Gain | None = None  # over the participants' held-out examples, each with its own weights
    gains: dict[ClientId, Gain] = {}  # the same of each of them
    train_loss: float | None = None
    num_examples: int = 0
    started: float = 0.0  # Unix seconds: the first order of the round issued
    committed: float = 0.0
    seconds: float = 0.0  # committed − started
    virtual_seconds: float | None = None  # virtual clock: what the round would have taken, retries included
    phases: dict[str, float] = {}  # "clients": orders out to last update in; "aggregate": fold to commit
    bytes_up: int = 0
    bytes_down: int = 0
    workers: dict[WorkerId, WorkerAccount] = {}
    weights_hash: Digest = ""
    entry_hash: Digest = ""


class RunView(Reply):
    """A run as lists and the live view show it."""

    id: RunId
    name: str
    state: RunState
    reason: str | None = None  # why it waits, paused, stopped or failed
    round: int = 0  # last committed
    rounds: int  # asked for
    cohort: tuple[ClientId, ...] = ()  # of the round under way
    arrived: tuple[ClientId, ...] = ()  # whose updates of the round under way are in
    accuracy: float | None = None  # last known
    created: float
    first_order: float | None = None  # Unix seconds: the first train order issued
    ended: float | None = None
    experiment_hash: Digest
    head: Digest | None = None


class RunDetail(RunView):
    experiment: Experiment
    history: tuple[RoundRecord, ...] = ()
    best_round: int | None = None
    environment: dict[str, str] = {}  # the aggregator's versions and machine
    report: bool = False  # whether the page that `lab` has made of it can be had here


class WorkerView(Reply):
    id: WorkerId
    host: str
    node: str
    arch: str
    cpus: int
    accelerator: str | None = None
    code: Digest | None = None
    state: Literal["present", "lost", "left"]
    doing: str | None = None
    clients: tuple[ClientId, ...]  # placed on it in the active run
    pinned: bool
    seen_seconds_ago: float
    memory_bytes: int
    cpu_seconds: float


class Event(Reply):
    """One server-sent event; `seq` is its id, so that a reader that comes back misses nothing."""

    seq: int
    kind: Literal["run", "round", "workers", "note"]
    run: RunView | None = None
    round: RoundRecord | None = None
    workers: tuple[WorkerView, ...] | None = None
    note: str | None = None


class LabEvent(Reply):
    """One server-sent event of the lab's own stream: all runs, and what `Event` says of those not ended."""

    seq: int
    kind: Literal["runs", "run", "round", "workers", "note"]
    at: float  # Unix seconds: the aggregator's clock when this was said
    of: RunId | None = None  # round, note: whose
    runs: tuple[RunView, ...] | None = None  # oldest first
    run: RunView | None = None
    round: RoundRecord | None = None
    workers: tuple[WorkerView, ...] | None = None
    note: str | None = None
