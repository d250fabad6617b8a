"""Tables for the terminal: runs, a lab's status, a partition."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from rich import box
from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text
from roundtable.messages import ENDED, RunView, WorkerView

from lab.called import as_called
from lab.forecast import Forecast
from lab.live import BLUE, pending, percent, workers_table
from lab.results import Spread

_CLIENTS = 40  # shown one by one


def runs(views: Sequence[RunView], live: bool = True) -> Table:
    """`live`: a lab is up, so that unfinished runs go on; otherwise they were interrupted."""
    table = Table(box=box.SIMPLE_HEAD, header_style="dim", pad_edge=False, collapse_padding=True)
    table.add_column("run", overflow="fold")  # alone, where the terminal is narrow: its name is the longest
    table.add_column("state", no_wrap=True)
    table.add_column("rounds", justify="right", no_wrap=True)
    table.add_column("accuracy", justify="right", no_wrap=True)
    table.add_column("created", no_wrap=True)
    for view in views:
        state = view.state if live or view.state in ENDED else "interrupted"
        created = datetime.fromtimestamp(view.created).strftime("%d %b %H:%M")
        table.add_row(view.id, state, f"{view.round}/{view.rounds}", percent(view.accuracy), created)
    return table


def status(views: Sequence[RunView], workers: Sequence[WorkerView]) -> RenderableType:
    """What is going on now: the active run, those that wait, the workers."""
    active = [view for view in views if view.state not in ENDED and view.state != "queued"]
    queued = [view for view in views if view.state == "queued"]
    parts: list[RenderableType] = []
    for view in active:
        parts += _active(view)
    if not active:
        last = f"; the last one, {views[-1].id}, {views[-1].state}" if views else ""
        parts.append(Text(f" no run is active{last}"))
    if queued:
        parts.append(Text(f" queued: {', '.join(view.id for view in queued)}", style="dim"))
    parts.append(Text(""))
    here = [worker for worker in workers if worker.state != "left"]
    waited_for = pending(active[0] if active else None)
    parts.append(workers_table(tuple(here), waited_for) if here else Text(" no worker is here", style="dim"))
    for device in sorted({worker.accelerator for worker in here if worker.accelerator}):
        on = ", ".join(worker.node for worker in here if worker.accelerator == device)
        parts.append(Text(f" {device}: {on}", style="dim"))
    return Group(*parts)


def _active(view: RunView) -> list[RenderableType]:
    bar = Table.grid(padding=(0, 1), expand=True)
    bar.add_column(width=1)
    bar.add_column(ratio=1)
    bar.add_column(justify="right", no_wrap=True)
    meter = ProgressBar(
        total=view.rounds, completed=view.round, style="grey50", complete_style=BLUE, finished_style=BLUE
    )
    bar.add_row("", meter, f"{view.round}/{view.rounds} rounds · {percent(view.accuracy)} ")
    reason = f": {as_called(view.reason)}" if view.reason else ""
    arrived = f", {len(view.arrived)} of {len(view.cohort)} clients in" if view.cohort else ""
    return [Text(f" {view.id}", style="bold"), bar, Text(f" {view.state}{reason}{arrived}")]


def partition(spread: Spread) -> RenderableType:
    """Clients × labels; the shade of a figure is its share of the client's examples."""
    table = Table(box=box.SIMPLE_HEAD, header_style="dim", pad_edge=False, collapse_padding=True)
    sums = [sum(column) for column in zip(*spread.counts, strict=True)]
    table.add_column("client", justify="right", no_wrap=True, min_width=6)
    for label, total in zip(
        spread.labels, sums, strict=True
    ):  # as wide as it is, however narrow the terminal
        table.add_column(label, justify="right", no_wrap=True, min_width=max(len(label), len(str(total))))
    table.add_column("all", justify="right", style="bold", no_wrap=True, min_width=len(str(sum(sums))))
    for client, row in enumerate(spread.counts[:_CLIENTS]):
        total = sum(row) or 1
        table.add_row(str(client), *(_shaded(count, count / total) for count in row), f"{sum(row)}")
    table.add_section()
    table.add_row("all", *(str(value) for value in sums), str(sum(sums)))
    words = f"{len(spread.counts)} clients of {span(sum(row) for row in spread.counts)} examples"
    rest = len(spread.counts) - _CLIENTS
    return Group(table, Text(f"… and {rest} more clients" if rest > 0 else "", style="dim"), Text(words))


def span(sizes: Iterable[int]) -> str:
    """From the least to the most."""
    known = sorted(sizes)
    least, most = known[0], known[-1]
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"


def forecast(expected: Forecast, clock: str) -> RenderableType:
    """What a round costs each kind of machine, and what the rounds come to."""
    table = Table(box=box.SIMPLE_HEAD, header_style="dim", pad_edge=False)
    table.add_column("  machine", overflow="fold")
    for name in ("clients", "download", "compute", "upload", "a round"):
        table.add_column(name, justify="right", no_wrap=True)
    for cost in expected.costs:
        whole = cost.download + (cost.compute or 0.0) + cost.upload
        parts = (cost.download, cost.compute, cost.upload, whole)
        table.add_row(f"  {cost.name}", str(cost.clients), *map(_seconds, parts))
    if not expected.rounds:
        words = "  compute is not known: set machines.samples_per_second (`lab calibrate` measures it)"
    else:
        exact = "" if clock == "virtual" else " if machines take what their profiles say"
        words = (
            f"  {expected.rounds} rounds take {_seconds(expected.seconds)} by the {clock} clock{exact}:"
            f" {expected.late} updates late, {expected.dropped} lost"
        )
    return Group(table, Text(words))


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:,.2f} s" if value < 100 else f"{value:,.0f} s"


def _shaded(count: int, share: float) -> Text:
    if not count:
        return Text("·", style="dim")
    return Text(str(count), style=f"bold {BLUE}" if share >= 0.3 else "")
