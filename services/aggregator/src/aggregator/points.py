"""What the aggregator tells about its runs as points (docs/telemetry.md): rounds and events.

A point is handed to `roundtable.telemetry`, which never makes anybody wait; without a TELEMETRY_URL none is
made.
"""

from __future__ import annotations

from collections.abc import Mapping

from roundtable.messages import RoundRecord
from roundtable.telemetry import Point, Telemetry
from roundtable.types import RunId, Seconds

from aggregator.clock import Clock


class Points:
    def __init__(self, clock: Clock, telemetry: Telemetry | None = None, source: str = "") -> None:
        self._clock = clock
        self._telemetry = telemetry
        self._source = source

    def round(
        self, run: RunId, records: Mapping[int, RoundRecord], number: int, first_order: Seconds | None
    ) -> None:
        """Round `number` of `records`, at the time it was committed: told again, it takes its own place."""
        if self._telemetry is None or number < 1:
            return
        record = records[number]
        before = [past for past in records.values() if 1 <= past.round <= number]
        busy = [account.training_seconds for account in record.workers.values()]
        fields = {
            "round": record.round,
            "accuracy": record.accuracy,
            "loss": record.loss,
            "federated_accuracy": record.federated.get("accuracy"),
            "train_loss": record.train_loss,
            "seconds": record.seconds,
            "virtual_seconds": record.virtual_seconds,
            "seconds_clients": record.phases.get("clients"),
            "seconds_aggregate": record.phases.get("aggregate"),
            "seconds_slowest": max(busy) - sum(busy) / len(busy) if busy else None,
            "elapsed": None if first_order is None else record.committed - first_order,
            "clients_in": len(record.participants),
            "clients_late": record.late,
            "clients_dropped": record.dropped,
            "clients_lost": record.lost,
            "num_examples": record.num_examples,
            "samples_seen": sum(past.num_examples for past in before),
            "bytes_up": record.bytes_up,
            "bytes_down": record.bytes_down,
            "bytes_total": sum(past.bytes_up + past.bytes_down for past in before),
            "dropped": self._telemetry.dropped,
        }
        tags = {"run": run, "source": self._source}
        self._telemetry.put(Point("fl_round", tags, fields, record.committed))

    def event(self, kind: str, text: str, run: RunId | None = None, round: int = 0) -> None:
        """`kind`: run (its state changed), round (committed), worker (came, left, was lost)."""
        if self._telemetry is None:
            return
        tags = {"run": run or "", "source": self._source, "kind": kind}
        self._telemetry.put(Point("fl_event", tags, {"text": text, "round": round}, self._clock.wall()))
