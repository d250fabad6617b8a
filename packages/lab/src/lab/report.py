"""One run as one page: self-contained HTML, made from result.json alone, again at any time."""

from __future__ import annotations

import base64
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from roundtable.types import Seconds

from lab.live import clock, percent
from lab.progress import counted
from lab.results import Result, experiment_toml

MB = 1_000_000


def html(result: Result, predictions: bytes | None = None) -> str:
    """The whole page, UTF-8, no outside asset. `predictions`: a PNG."""
    from lab import charts, gains, overlap  # matplotlib: a second, which only those wait for who need it

    templates = Environment(
        loader=PackageLoader("lab", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["percent"] = percent
    templates.filters["seconds"] = seconds
    templates.filters["mb"] = megabytes
    templates.filters["counted"] = counted
    rounds, final = result.rounds, result.final
    names = result.partition.labels if result.partition else ()
    told = gains.last(rounds)
    return templates.get_template("report.html.j2").render(
        result=result,
        final=final,
        learning=charts.learning_curve(rounds),
        overlap=overlap.curve(rounds, names) if overlap.measured(rounds) else None,
        overlaps=overlap.by_class(final.metrics, names),
        predictions=base64.b64encode(predictions).decode() if predictions else None,
        gains=gains.figure(told) if told else None,
        told=told,
        phases=charts.phases(rounds),
        traffic=charts.traffic(rounds),
        partition=charts.partition(result.partition) if result.partition else None,
        sizes=_sizes(result),
        phase_sums={name: sum(values) for name, values in charts.phase_table(rounds).items()},
        workers=_accounts(result),
        settings=experiment_toml(result.experiment),
        trouble=[
            record for record in rounds if record.late or record.dropped or record.lost or record.attempt > 1
        ],
        virtual=charts.virtual_time(rounds) if result.clock == "virtual" else None,
        profiles=_profiles(result),
    )


def seconds(value: Seconds | None) -> str:
    if value is None:
        return "–"
    return f"{value:.2f} s" if value < 10 else f"{value:.1f} s" if value < 120 else clock(value)


def megabytes(value: int) -> str:
    return f"{value / MB:,.1f} MB"


def _sizes(result: Result) -> tuple[int, int] | None:
    """The smallest and the largest client, in examples, those that they hold out among them."""
    if result.partition is None:
        return None
    totals = [sum(row) for row in result.partition.counts]
    return min(totals), max(totals)


def _profiles(result: Result) -> list[dict[str, Any]]:
    """How many clients have which machine; nothing where all are plain."""
    experiment = result.experiment
    sizes = experiment.machines.sizes(experiment.clients.count)
    return [
        {"name": name, "clients": size, **experiment.machines.profiles[name].model_dump()}
        for name, size in sizes.items()
    ]


def _accounts(result: Result) -> list[dict[str, Any]]:
    """Each worker's part over all rounds, as it told it itself."""
    names = {worker.id: worker for worker in result.workers}
    rows = []
    for worker in sorted({worker for record in result.rounds for worker in record.workers}):
        parts = [record.workers[worker] for record in result.rounds if worker in record.workers]
        known = names.get(worker)
        rows.append(
            {
                "name": known.node if known else worker,
                "accelerator": known.accelerator if known and known.accelerator else "CPU",
                "rounds": len(parts),
                "orders": sum(len(part.clients) for part in parts),
                "cpu": sum(part.cpu_seconds for part in parts),
                "waiting": sum(part.waiting_seconds for part in parts),
                "training": sum(part.training_seconds for part in parts),
                "sending": sum(part.sending_seconds for part in parts),
                "up": sum(part.bytes_out for part in parts),
                "down": sum(part.bytes_in for part in parts),
                "memory": max(part.peak_memory_bytes for part in parts),
            }
        )
    return sorted(rows, key=lambda row: (len(row["name"]), row["name"]))
