"""What people are shown of runs and workers: messages built on demand from what is in memory and in the
store.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping
from importlib.metadata import version

import numpy as np
from roundtable.messages import RoundRecord, RunDetail, RunView, WorkerView
from roundtable.sources import code_hash
from roundtable.types import ClientId, Seconds, WorkerId

from aggregator.active import ActiveRun
from aggregator.rows import CommitRow, RunRow
from aggregator.workers import Worker


def environment() -> dict[str, str]:
    """This aggregator and its machine, as kept with each run."""
    return {
        "aggregator": version("roundtable-aggregator"),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "cpus": str(os.cpu_count() or 0),
        "code": code_hash("roundtable", "aggregator"),
    }


def best_round(history: Iterable[RoundRecord]) -> int | None:
    """The highest accuracy, the earliest of equals."""
    scored = [(-record.accuracy, record.round) for record in history if record.accuracy is not None]
    return min(scored)[1] if scored else None


def live_view(run: ActiveRun) -> RunView:
    """Of the run under way."""
    machine = run.machine
    return RunView(
        id=run.id,
        name=run.experiment.name,
        state=run.shown,
        reason=run.reason,
        round=run.done,
        rounds=run.experiment.rounds.count,
        cohort=machine.cohort,
        arrived=run.arrived,
        accuracy=_last_accuracy(reversed(run.records.values())),
        created=run.row.created,
        first_order=run.first_order,
        ended=None,
        experiment_hash=run.row.experiment_hash,
        head=run.head,
    )


def stored_view(row: RunRow, last: CommitRow | None, accuracy: float | None) -> RunView:
    """Of a run that waits or has ended."""
    return RunView(
        id=row.id,
        name=row.experiment.name,
        state=row.state,
        reason=row.reason,
        round=last.round if last else 0,
        rounds=row.experiment.rounds.count,
        accuracy=accuracy,
        created=row.created,
        first_order=row.first_order,
        ended=row.ended,
        experiment_hash=row.experiment_hash,
        head=last.entry_hash if last else None,
    )


def detail(view: RunView, row: RunRow, history: Iterable[RoundRecord]) -> RunDetail:
    records = tuple(history)
    fields = {name: getattr(view, name) for name in RunView.model_fields}
    return RunDetail.model_construct(
        **fields,
        experiment=row.experiment,
        history=records,
        best_round=best_round(records),
        environment=row.environment,
    )


def _last_accuracy(latest_first: Iterable[RoundRecord]) -> float | None:
    return next((record.accuracy for record in latest_first if record.accuracy is not None), None)


def worker_view(worker: Worker, homes: Mapping[ClientId, WorkerId], now: Seconds) -> WorkerView:
    join = worker.join
    return WorkerView(
        id=worker.id,
        host=join.host,
        node=join.node,
        arch=join.arch,
        cpus=join.cpus,
        accelerator=join.accelerator,
        code=join.code,
        state=worker.state,
        doing=worker.doing if worker.state == "present" else None,
        clients=tuple(client for client, home in homes.items() if home == worker.id),
        pinned=worker.pinned,
        seen_seconds_ago=round(now - worker.heard, 1),
        memory_bytes=worker.memory_bytes,
        cpu_seconds=worker.cpu_seconds,
    )
