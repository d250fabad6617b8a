"""What a worker tells about itself as points (docs/telemetry.md): each trained client; the process every 5 s.

A point is handed to `roundtable.telemetry`, which never makes anybody wait; without a TELEMETRY_URL none is
made.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from roundtable.messages import Account, Order
from roundtable.telemetry import Point, Telemetry, Value
from roundtable.types import ClientId, RunId, Seconds, WorkerId

from worker.account import Traffic, cpu_seconds, memory_bytes

EVERY: Final[Seconds] = 5.0
FAREWELL: Final[Seconds] = 0.5  # for the last points
CLOCK_OFF: Final[Seconds] = 60.0  # no network delay is so long


class Points:
    """`start` it, and `close`. `limit`: bytes of memory this process may use."""

    def __init__(
        self,
        telemetry: Telemetry | None = None,
        source: str = "",
        node: str = "",
        limit: int = 0,
        *,
        every: Seconds = EVERY,
        wall: Callable[[], Seconds] = time.time,
    ) -> None:
        self._telemetry = telemetry
        self._source, self._node, self._limit = source, node, limit
        self._every, self._wall = every, wall
        self._worker: WorkerId = ""
        self._ahead: Seconds = 0.0  # of the aggregator's clock
        self._run: RunId = ""
        self._clients: dict[ClientId, int] = {}  # → the last round it was trained in
        self._cpu, self._since = cpu_seconds(), time.monotonic()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="points", daemon=True)
        self.traffic = Traffic()  # whose totals are told

    def start(self) -> None:
        if self._telemetry is not None:
            self._telemetry.start()
            self._thread.start()

    def close(self, patience: Seconds = FAREWELL) -> None:
        self._closing.set()
        if self._telemetry is not None:
            self._telemetry.close(patience)

    def joined(self, worker: WorkerId, time: Seconds | None = None) -> None:
        """`time`: the aggregator's, in Unix seconds. Where this machine's is far off, points are told in
        it."""
        self._worker = worker
        ahead = 0.0 if time is None else self._wall() - time
        self._ahead = ahead if abs(ahead) > CLOCK_OFF else 0.0

    def trained(self, order: Order, account: Account) -> None:
        """A client's training has ended and its update is about to be sent."""
        if self._telemetry is None or order.client is None:
            return
        if order.run != self._run:
            self._run, self._clients = order.run, {}
        self._clients = {
            client: round for client, round in self._clients.items() if round >= order.round - 1
        } | {order.client: order.round}
        tags = {
            "run": order.run,
            "source": self._source,
            "worker": self._worker,
            "client": str(order.client),
            "node": self._node,
        }
        fields: dict[str, Value | None] = {
            "round": order.round,
            "seconds_training": account.training_seconds,
            "seconds_waiting": account.waiting_seconds,
            "seconds_fetching": account.fetching_seconds,
            "seconds_sending": account.sending_seconds,
            "num_examples": account.num_examples,
            "num_steps": account.num_steps,
            "loss": account.loss,
            "cpu_seconds": account.cpu_seconds,
            "bytes_in": account.bytes_in,
            "bytes_out": account.bytes_out,
        }
        self._telemetry.put(Point("fl_client", tags, fields, self._wall() - self._ahead))

    def _beat(self) -> None:
        while not self._closing.wait(self._every):
            self._tell_self()

    def _tell_self(self) -> None:
        assert self._telemetry is not None
        cpu, now = cpu_seconds(), time.monotonic()
        busy = 100.0 * (cpu - self._cpu) / max(now - self._since, 1e-3)
        self._cpu, self._since = cpu, now
        received, sent = self.traffic.totals()
        tags = {"run": self._run, "source": self._source, "worker": self._worker, "node": self._node}
        fields: dict[str, Value | None] = {
            "worker_id": f"{self._worker}@{self._source}",
            "usage_percent": busy,
            "usage": memory_bytes(),
            "limit": self._limit,
            "rx_bytes": received,
            "tx_bytes": sent,
            "clients": len(self._clients),
            "dropped": self._telemetry.dropped,
        }
        self._telemetry.put(Point("fl_worker", tags, fields, self._wall() - self._ahead))
