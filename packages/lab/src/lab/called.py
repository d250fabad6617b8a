"""How `lab` is called here, in all that suggests a command to the user.

Messages, those that come from an aggregator too, say `lab …` in backquotes; what shows one to somebody passes
it through `as_called`. A newcomer who has run `make demo` has no `lab` on PATH: it is .venv/bin/lab.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

FROM_THE_ROOT = (
    ".venv/bin/lab"  # for what is written down: from the project's root it works once `make` has run
)


def command() -> str:
    """As the user started it: `lab` where that is found on PATH, `uv run lab`, else the program's path."""
    program = Path(sys.argv[0])
    if program.name != "lab":
        program = Path(sys.executable).with_name("lab")
    # uv puts the folder of the program on PATH, for as long as the command takes that it runs.
    if "UV_RUN_RECURSION_DEPTH" in os.environ:
        if shutil.which("uv"):
            return "uv run lab"
    elif (found := shutil.which("lab")) and Path(found).absolute() == program.absolute():
        return "lab"
    shortest = min(os.path.relpath(program), str(program.absolute()), key=len)
    return shlex.quote(shortest if os.path.sep in shortest else f"./{shortest}")


def as_called(message: str) -> str:
    """The message, its `lab …` as they are to be typed here."""
    return message.replace("`lab ", f"`{command()} ") if "`lab " in message else message
