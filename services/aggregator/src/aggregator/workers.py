"""Who is in the lab: joining, being heard, going silent, coming back.

The table is pure bookkeeping over the injected clock; `reception` changes who is there, and tells the store
and the round machine of it. A worker's id belongs to its instance id for good, over restarts of the
aggregator too.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

from roundtable.errors import IncompatibleVersion, InvalidInput, NotPossible, Unknown
from roundtable.messages import PROTOCOL, Join, Poll
from roundtable.types import Seconds, WorkerId

from aggregator.clock import Clock

State = Literal["present", "lost", "left"]
CLOCK_OFF: Final[Seconds] = 60.0  # no network delay is so long
DISK_FULL: Final = 64 << 20  # bytes free: a system's own logs fill the rest soon


@dataclass
class Worker:
    """One row: mutable, and changed here and by `reception` alone."""

    id: WorkerId
    join: Join
    state: State
    heard: Seconds  # on the clock's monotonic scale
    polls: int = 0  # waiting just now
    doing: str | None = None
    cpu_seconds: float = 0.0
    memory_bytes: int = 0

    @property
    def node(self) -> str:
        return self.join.node

    @property
    def pinned(self) -> bool:
        return self.join.pinned is not None


def check_version(protocol: object) -> None:
    """Before anything else of a join is looked at: another version may look quite different. Raises
    IncompatibleVersion; InvalidInput for what is no version.
    """
    if isinstance(protocol, bool) or not isinstance(protocol, int):
        found = "nothing" if protocol is None else f"{protocol!r:.40}"
        raise InvalidInput(f"protocol: found {found}; allowed: a whole number, the version that is spoken")
    if protocol == PROTOCOL:
        return
    remedy = "update the worker" if protocol < PROTOCOL else "update the aggregator"
    raise IncompatibleVersion(
        f"the worker speaks protocol version {protocol!r}, this aggregator version {PROTOCOL}: "
        f"{remedy} so that both are the same"
    )


def check_names(join: Join) -> None:
    """They are shown in terminals and logs as they are. Raises InvalidInput."""
    for field_name in ("host", "node", "arch"):
        name: str = getattr(join, field_name)
        if not name.isprintable():
            raise InvalidInput(f"{field_name}: found {name!r:.80}; allowed: printable characters alone")


@dataclass
class Workers:
    clock: Clock
    lost_after: Seconds
    rows: dict[WorkerId, Worker] = field(default_factory=dict)
    instances: dict[str, WorkerId] = field(default_factory=dict)

    def remember(self, worker: WorkerId, join: Join, state: State) -> None:
        """Of a worker known from before a restart; one that was present is taken as heard just now."""
        self.rows[worker] = Worker(worker, join, state, self.clock.monotonic())
        self.instances[join.instance] = worker

    def admit(self, join: Join) -> Worker:
        """The row of a worker that introduces itself: the same for the same instance. Raises NotPossible."""
        if join.pinned is not None:
            self._check_node_is_free(join)
        known = self.instances.get(join.instance)
        if known is None:
            known = f"w{len(self.rows) + 1}"
            self.instances[join.instance] = known
            self.rows[known] = Worker(known, join, "left", self.clock.monotonic())
        row = self.rows[known]
        row.join = join
        return row

    def __getitem__(self, worker: WorkerId) -> Worker:
        try:
            return self.rows[worker]
        except KeyError:
            raise Unknown(f"worker {worker} is not known here: join again") from None

    def hear(self, worker: Worker, poll: Poll) -> bool:
        """A poll has come in. True where something that the eye sees has changed."""
        changed = worker.doing != poll.doing
        worker.heard = self.clock.monotonic()
        worker.doing = poll.doing
        worker.cpu_seconds = poll.cpu_seconds
        worker.memory_bytes = poll.memory_bytes
        return changed

    @property
    def present(self) -> list[Worker]:
        return [row for row in self.rows.values() if row.state == "present"]

    def silent(self) -> list[Worker]:
        """Those whose silence has lasted `lost_after`; a poll that waits is not silence."""
        limit = self.clock.monotonic() - self.lost_after
        return [row for row in self.present if not row.polls and row.heard <= limit]

    def next_check(self) -> Seconds | None:
        """When the next worker could have been silent for too long."""
        now = self.clock.monotonic()
        times = [(now if row.polls else row.heard) + self.lost_after for row in self.present]
        return min(times, default=None)

    def doubts(self, worker: Worker, now: Seconds) -> tuple[str, ...]:
        """What its people should know of a worker that has just joined. `now`: Unix seconds."""
        found, join = [], worker.join
        if join.time is not None and abs(ahead := join.time - now) > CLOCK_OFF:
            found.append(
                f"node {join.node}'s clock is {_span(abs(ahead))} {'ahead of' if ahead > 0 else 'behind'} "
                "the aggregator's: set it (timedatectl set-ntp true); until then what Telegraf tells of it "
                "is shown at wrong times"
            )
        if join.disk_free_bytes is not None and join.disk_free_bytes < DISK_FULL:
            found.append(
                f"node {join.node}'s disk is full ({join.disk_free_bytes / 2**20:.0f} MB are free): its work "
                "goes on, as the worker writes nothing there, but its system may not: make room on it"
            )
        for row in self.present:
            if row.node == join.node and row.join.host != join.host and row.id != worker.id:
                found.append(
                    f"node name {join.node} is taken twice, by worker {row.id} on {row.join.host} and by "
                    f"{worker.id} on {join.host}: give one another NODE_NAME, or their figures run together"
                )
        return tuple(found)

    def _check_node_is_free(self, join: Join) -> None:
        for row in self.present:
            if row.pinned and row.node == join.node and row.join.instance != join.instance:
                ago = self.clock.monotonic() - row.heard
                raise NotPossible(
                    f"node name {join.node} is taken by worker {row.id} on {row.join.host}, "
                    f"heard {ago:.0f} s ago: "
                    "give this node another name, or stop that worker "
                    f"(a dead one is let go after {self.lost_after:g} s)"
                )


def _span(seconds: Seconds) -> str:
    for size, name in ((86_400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size:
            count = round(seconds / size)
            return f"{count} {name}{'s' if count != 1 else ''}"
    return f"{seconds:.0f} seconds"
