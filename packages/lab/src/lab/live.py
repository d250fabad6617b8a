"""How a run looks in the terminal: lines of rounds that scroll away, and below them what goes on now.

`Show` is what follow.py tells; `Live` draws with rich on a terminal, `Plain` writes a line a round elsewhere,
`Silent` says nothing. Meaning is in words and symbols; colour only repeats it, in blue and orange.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live as RichLive
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text
from roundtable.experiment import Experiment
from roundtable.messages import RoundRecord, RunView, WorkerView
from roundtable.types import ClientId

from lab import stdout
from lab.called import as_called
from lab.progress import Progress, counted

BLUE = "#0072B2"  # Okabe and Ito's, as in the report
ORANGE = "#E69F00"
MB = 1_000_000
_ROWS = 12  # workers listed one by one
_LOST_ROWS = 3  # and of those that are lost, below the others

# In 60 columns a plain round is one line.
HEADING = f"{'round':>6}{'accuracy':>10}{'loss':>9}{'seconds':>9}{'MB up':>8}{'MB down':>9}  clients"


class Show(Protocol):
    def begin(self, experiment: Experiment) -> None: ...
    def update(self, progress: Progress) -> None: ...
    def say(self, line: str, *, warn: bool = False) -> None: ...
    def end(self) -> None: ...


class Silent:
    def begin(self, experiment: Experiment) -> None: ...
    def update(self, progress: Progress) -> None: ...
    def say(self, line: str, *, warn: bool = False) -> None: ...
    def end(self) -> None: ...


class Plain:
    """For pipes and log files: a line when something changes, no escape codes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last = ""
        self._headed = False

    def begin(self, experiment: Experiment) -> None:
        self.say(title(experiment))

    def update(self, progress: Progress) -> None:
        for note in progress.take_notes():
            self.say(note)
        for record in progress.take_rounds():
            if not self._headed:
                self.say(HEADING)
                self._headed = True
            self.say(round_line(record))
        phase = progress.waiting_for()
        if not self._headed and phase != self._last and not phase.startswith("round "):
            self.say(phase)
            self._last = phase

    def say(self, line: str, *, warn: bool = False) -> None:
        self._console.print(
            ("! " if warn else "") + as_called(line), markup=False, highlight=False, soft_wrap=True
        )
        if stdout.lost():
            raise KeyboardInterrupt  # nobody looks any more, as where a terminal is closed

    def end(self) -> None: ...


class Live:
    """Redrawn four times a second; leaves only the lines of rounds behind."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._spinner = Spinner("dots", style=BLUE)
        self._live = RichLive(
            console=console,
            transient=True,
            refresh_per_second=8,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._headed = False

    def begin(self, experiment: Experiment) -> None:
        self._console.print()
        self._console.print(Text(" " + title(experiment), style="bold"), overflow="ellipsis", no_wrap=True)
        self._live.start()

    def update(self, progress: Progress) -> None:
        for note in progress.take_notes():
            self.say(note)
        for record in progress.take_rounds():
            if not self._headed:
                self._console.print()
                self._console.print(Text(HEADING, style="dim"))
                self._headed = True
            self._console.print(styled_round_line(record))
        self._live.update(picture(progress, time.time(), self._spinner))

    def say(self, line: str, *, warn: bool = False) -> None:
        words = as_called(line)
        self._console.print(
            Text.assemble((" ▲ ", ORANGE), words) if warn else Text(f"   {words}", style="dim"),
            soft_wrap=True,  # a command in two pieces cannot be copied
        )

    def end(self) -> None:
        self._live.stop()


def title(experiment: Experiment) -> str:
    clients = experiment.clients
    cohort = "" if experiment.cohort_size == clients.count else f", {experiment.cohort_size} a round"
    return (
        f"{experiment.name} · {experiment.task} · {counted(clients.count, 'client')}"
        f" ({experiment.partition.kind}{cohort}) · {counted(experiment.rounds.count, 'round')}"
        f"{_machines(experiment)}"
    )


def _machines(experiment: Experiment) -> str:
    """What is not plain about its machines."""
    machines = experiment.machines
    profiles = f" · {' and '.join(sorted(machines.profiles))} profiles" if machines.profiles else ""
    return profiles + (" · virtual clock" if machines.clock == "virtual" else "")


def percent(accuracy: float | None) -> str:
    return "–" if accuracy is None else f"{100 * accuracy:.2f} %"


def round_line(record: RoundRecord) -> str:
    return _figures(record) + "  " + _clients(record)


def styled_round_line(record: RoundRecord) -> Text:
    trouble = bool(record.late or record.dropped or record.lost or record.attempt > 1)
    return Text.assemble(_figures(record), "  ", (_clients(record), ORANGE if trouble else ""))


def _figures(record: RoundRecord) -> str:
    loss = "–" if record.loss is None else f"{record.loss:.4f}"
    return (
        f"{record.round:>6}{percent(record.accuracy):>10}{loss:>9}{record.seconds:>9.2f}"
        f"{record.bytes_up / MB:>8.1f}{record.bytes_down / MB:>9.1f}"
    )


def _clients(record: RoundRecord) -> str:
    parts = [f"{len(record.participants)} in"]
    parts += [f"{record.late} late"] if record.late else []
    parts += [f"{record.dropped} dropped"] if record.dropped else []
    parts += [f"{record.lost} lost"] if record.lost else []
    parts += [f"try {record.attempt}"] if record.attempt > 1 else []
    parts += [f"{record.virtual_seconds:.1f} virtual s"] if record.virtual_seconds is not None else []
    return ", ".join(parts)


def picture(progress: Progress, now: float, spinner: Spinner) -> RenderableType:
    """Everything below the lines of rounds. `now`: Unix seconds."""
    rounds = progress.run.rounds if progress.run else progress.experiment.rounds.count
    bar = Table.grid(padding=(0, 1), expand=True)
    bar.add_column(width=1)
    bar.add_column(ratio=1)
    bar.add_column(justify="right", no_wrap=True)
    meter = ProgressBar(
        total=rounds, completed=progress.committed, style="grey50", complete_style=BLUE, finished_style=BLUE
    )
    bar.add_row("", meter, _left(progress, rounds, now) + " ")
    doing = Table.grid(padding=(0, 1))
    doing.add_column(width=1)
    doing.add_row(
        Text(""), spinner, Text(as_called(progress.waiting_for()), overflow="ellipsis", no_wrap=True)
    )
    return Group(Text(""), bar, doing, Text(""), *_workers(progress))


def clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _left(progress: Progress, rounds: int, now: float) -> str:
    left = progress.seconds_left(now)
    rest = "" if left is None else f" · {clock(left)} left"
    return f"{progress.committed}/{rounds} rounds{rest}"


def workers_table(
    workers: tuple[WorkerView, ...],
    pending: frozenset[ClientId] = frozenset(),
    launched: tuple[str, ...] = (),
    died: Mapping[str, str] | None = None,
) -> Table:
    """One row a worker: those that are here, those of ours that are still starting, then those that are lost.

    `pending`: clients whose updates of the round under way are not in yet.
    """
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, overflow="ellipsis", min_width=11, max_width=18)  # node
    table.add_column(no_wrap=True, overflow="ellipsis", min_width=20, max_width=24)  # state
    table.add_column(max_width=22)  # clients: what gives way below 80 columns (`_cut`)
    table.add_column(no_wrap=True)  # memory
    gone = died or {}
    by_node = {worker.node: worker for worker in workers}
    ours = [by_node.pop(node, node) for node in launched]
    rows = [*ours, *(worker for worker in workers if worker.node in by_node)]
    silent: list[WorkerView] = []
    others: list[WorkerView | str] = []
    for row in rows:
        if not isinstance(row, str) and row.state == "lost" and row.node not in gone:
            silent.append(row)
        else:
            others.append(row)
    for row in (*others[:_ROWS], *(silent if len(silent) <= _LOST_ROWS else ())):
        node = row if isinstance(row, str) else row.node
        if node in gone:
            table.add_row(f"  {node}", Text("▲ died", style=ORANGE), _cut(gone[node], "dim"), "")
        elif isinstance(row, str):
            table.add_row(f"  {node}", Text("◌ starting", style="dim"), "", "")
        else:
            table.add_row(f"  {node}", *_standing(row, pending))
    if rest := others[_ROWS:]:
        here = sum(not isinstance(row, str) and row.state == "present" for row in rest)
        table.add_row(f"  and {len(rest)} more", f"{here} present", "", "")
    if len(silent) > _LOST_ROWS:
        shortest = min(worker.seen_seconds_ago for worker in silent)
        table.add_row(
            f"  {len(silent)} workers",
            Text("▲ lost", style=ORANGE),
            _cut(f"silent {shortest:.0f} s or more"),
            "",
        )
    return table


def _workers(progress: Progress) -> list[RenderableType]:
    if not progress.workers and not progress.launched:
        return []
    return [workers_table(progress.workers, pending(progress.run), progress.launched, progress.died)]


def pending(run: RunView | None) -> frozenset[ClientId]:
    """Clients of the round under way whose updates are not in yet."""
    return frozenset() if run is None or run.state != "running" else frozenset(run.cohort) - set(run.arrived)


def _standing(worker: WorkerView, pending: frozenset[ClientId]) -> tuple[Text | str, ...]:
    if worker.state == "lost":
        return (Text("▲ lost", style=ORANGE), _cut(f"silent for {worker.seen_seconds_ago:.0f} s"), "")
    if worker.state == "left":
        return (Text("○ left", style="dim"), "", "")
    return (
        _busy(worker, len(pending.intersection(worker.clients))),
        _cut(_placed(worker)),
        Text(f"{worker.memory_bytes / MB:.0f} MB", style="dim") if worker.memory_bytes else "",
    )


def _cut(words: str, style: str = "") -> Text:
    """On one line, however narrow its column becomes."""
    return Text(words, style, no_wrap=True, overflow="ellipsis")


def _busy(worker: WorkerView, to_train: int) -> Text:
    """What it said when it last asked for work may be seconds old; which updates are missing is not."""
    if to_train:
        return Text.assemble(("● ", BLUE), f"training {counted(to_train, 'client')}")
    if worker.doing in (None, "", "waiting") or worker.doing.startswith("training"):
        return Text("○ waiting", style="dim")
    return Text.assemble(("● ", BLUE), worker.doing)


def _placed(worker: WorkerView) -> str:
    """Which clients it hosts, short: "clients 0 5", "clients 0 4 8 … 36 (10)"."""
    ids = worker.clients
    if not ids:
        return ""
    word = "client" if len(ids) == 1 else "clients"
    if len(ids) <= 4:
        return f"{word} {' '.join(map(str, ids))}"
    return f"{word} {' '.join(map(str, ids[:3]))} … {ids[-1]} ({len(ids)})"
