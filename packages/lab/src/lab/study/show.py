"""How a study looks in the terminal: a line for each repeat that is done, a bar with the time left below."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from rich.console import Console
from rich.live import Live as RichLive
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text
from roundtable.types import Seconds

from lab.called import as_called
from lab.live import BLUE, ORANGE, clock, percent
from lab.progress import Progress


@dataclass(frozen=True)
class Standing:
    """Where the study is."""

    done: int
    jobs: int
    left: Seconds | None  # estimated
    now: str  # the section, cell and seed under way


class Show(Protocol):
    def say(self, line: str, *, warn: bool = False) -> None: ...
    def stand(self, standing: Standing) -> None: ...
    def progress(self, progress: Progress) -> None: ...
    def end(self) -> None: ...


class Silent:
    def say(self, line: str, *, warn: bool = False) -> None: ...
    def stand(self, standing: Standing) -> None: ...
    def progress(self, progress: Progress) -> None: ...
    def end(self) -> None: ...


class Plain:
    """For pipes and log files: what is said, and nothing that moves."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._standing: Standing | None = None

    def say(self, line: str, *, warn: bool = False) -> None:
        left = ""
        if self._standing is not None:
            left = f"[{self._standing.done}/{self._standing.jobs}] "
        words = left + ("! " if warn else "") + as_called(line)
        self._console.print(words, markup=False, highlight=False, soft_wrap=True)

    def stand(self, standing: Standing) -> None:
        self._standing = standing

    def progress(self, progress: Progress) -> None: ...

    def end(self) -> None: ...


class Live:
    """Redrawn eight times a second while the study runs; leaves the lines that were said."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = RichLive(console=console, transient=True, refresh_per_second=8)
        self._standing: Standing | None = None
        self._started = False

    def say(self, line: str, *, warn: bool = False) -> None:
        words = as_called(line)
        self._console.print(
            Text.assemble((" ▲ ", ORANGE), words) if warn else Text(f" {words}"), soft_wrap=True
        )

    def stand(self, standing: Standing) -> None:
        self._standing = standing
        if not self._started:
            self._live.start()
            self._started = True
        self._draw("")

    def progress(self, progress: Progress) -> None:
        accuracy = progress.run.accuracy if progress.run else None
        reached = f", {percent(accuracy)}" if accuracy is not None else ""
        rounds = f" · round {progress.committed} of {progress.run.rounds}{reached}" if progress.run else ""
        waiting = "" if progress.committed else f" · {as_called(progress.waiting_for())}"
        self._draw(rounds if progress.committed else waiting)

    def end(self) -> None:
        self._live.stop()

    def _draw(self, doing: str) -> None:
        if self._standing is None:
            return
        bar = Table.grid(padding=(0, 1), expand=True)
        bar.add_column(width=1)
        bar.add_column(ratio=1)
        bar.add_column(justify="right", no_wrap=True)
        done, jobs = self._standing.done, self._standing.jobs
        meter = ProgressBar(
            total=jobs, completed=done, style="grey50", complete_style=BLUE, finished_style=BLUE
        )
        left = f" · {clock(self._standing.left)} left" if self._standing.left is not None else ""
        bar.add_row("", meter, f"{done}/{jobs} runs{left} ")
        grid = Table.grid()
        grid.add_row(bar)
        grid.add_row(Text(f"  {self._standing.now}{doing}", overflow="ellipsis", no_wrap=True))
        self._live.update(grid)
