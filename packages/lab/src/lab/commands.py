"""`lab` put together: its commands, and what becomes of their errors."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer
from roundtable.errors import RoundtableError

from lab import calibrate, looking, nodes, running
from lab.called import as_called, command
from lab.exits import EXPLAINED, Exit, exit_of
from lab.study import commands as studies

app = typer.Typer(
    name="lab",
    help="Run federated-learning experiments: with processes of this machine, or in a lab elsewhere (--url).",
    epilog=EXPLAINED,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command()(running.run)
app.command()(running.resume)
app.command()(running.replay)
app.command()(looking.check)
app.command()(looking.partition)
app.command()(calibrate.calibrate)
app.command()(looking.status)
app.command()(looking.runs)
app.command()(looking.stop)
app.command()(looking.verify)
app.command(name="export")(looking.export_model)
app.command()(looking.report)
app.add_typer(studies.app)
app.command()(nodes.certs)
app.add_typer(nodes.node)


def run_app(arguments: Sequence[str]) -> int:
    """Carry out a command line; the exit code. Every mistake of the user's is one line on stderr."""
    try:
        code = app(args=list(arguments), prog_name="lab", standalone_mode=False)
        return int(code) if isinstance(code, int) else Exit.DONE
    except SystemExit:
        if "--install-completion" in arguments and command() != "lab":
            print("In zsh and fish it works once `lab` is on PATH, which it is not here.", file=sys.stderr)
        raise
    except RoundtableError as error:
        return _refuse(str(error), exit_of(error))
    except Exception as error:
        words = getattr(error, "format_message", None)  # a mistake in the command line, in typer's words
        if words is None:
            raise  # a fault of ours: show where
        context = getattr(error, "ctx", None)
        remedy = f"see `{context.command_path if context else 'lab'} --help`"
        told = words().rstrip(".").replace(": Value error, ", ": ")  # pydantic's word for typer's enums
        return _refuse(f"{told}: {remedy}", Exit.BAD_INPUT) if told else Exit.BAD_INPUT


def _refuse(message: str, code: Exit) -> Exit:
    for line in as_called(message).splitlines():
        print(f"lab: {line}", file=sys.stderr)
    return code
