"""The options that commands share, each in one place with its words."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

_TABLE = 140  # columns of the widest table there can be, of runs; a file or pipe is not to cut it
_piped = not sys.stdout.isatty() and "COLUMNS" not in os.environ
# What is printed holds paths and texts of a user's.
out = Console(highlight=False, markup=False, width=_TABLE if _piped else None)
RUNS, TASKS, DATASETS = Path("runs"), Path("tasks"), Path("datasets")

ExperimentFile = Annotated[
    Path,
    typer.Argument(
        metavar="EXPERIMENT", help="A TOML file, such as experiments/demo.toml.", show_default=False
    ),
]


def _complete_run(incomplete: str) -> list[str]:
    """Runs whose results or weights are here, for the shell's completion."""
    found = {path.parent.name for path in RUNS.glob("*/result.json")}
    found |= {path.name for path in RUNS.glob(".aggregator/runs/*")}
    return [name for name in ("latest", *sorted(found - {"latest"})) if name.startswith(incomplete)]


Run = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="A run's id, its beginning, or `latest`: the last one begun.",
        show_default=False,
        autocompletion=_complete_run,
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        "-w",
        help="Worker processes to start on this machine: 2 unless you say.",
        show_default=False,
    ),
]
NodesDir = Annotated[
    Path | None,
    typer.Option(
        "--nodes-dir",
        help="Pinned data: start one worker for each folder in here, with that folder as its own.",
        show_default=False,
    ),
]
Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        envvar="LAB_URL",
        help="A lab that is up, instead of processes of our own.",
        show_default=False,
    ),
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        "--admin-token-file",
        envvar="LAB_ADMIN_TOKEN_FILE",
        help="With --url: the file with its admin token; its read token will do for looking.",
        show_default=False,
    ),
]
Ca = Annotated[
    Path | None,
    typer.Option(
        "--ca",
        envvar="LAB_CA",
        help="With --url https://…: the lab's ca.pem (make certs); no other certificate is trusted then.",
        show_default=False,
    ),
]
Runs = Annotated[Path, typer.Option("--runs-dir", help="Where results and the aggregator's state go.")]
Tasks = Annotated[Path, typer.Option("--tasks-dir", help="Your own tasks.")]
Datasets = Annotated[Path, typer.Option("--datasets-dir", help="Data sets.")]
Port = Annotated[
    int, typer.Option("--port", min=0, max=65535, help="For our own aggregator; 0: any free one.")
]
Json = Annotated[
    bool,
    typer.Option(
        "--json", help="Print JSON for scripts, and nothing else, on stdout; a refusal is a line on stderr."
    ),
]
NoLive = Annotated[bool, typer.Option("--no-live", help="Plain lines instead of the live view.")]


def animated() -> bool:
    """Whether what is shown can be drawn over: not in a file or pipe, nor on a terminal that is TERM=dumb."""
    return out.is_terminal and not out.is_dumb_terminal


def print_json(body: Any) -> None:
    print(json.dumps(body, indent=2, allow_nan=False))
