"""The entry point of `lab`. It imports next to nothing before it guards: Ctrl-C is quiet from the start.

The commands are put together in commands.py, where each mistake of a user's becomes one line and a code.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import NoReturn


def main() -> NoReturn:
    """Run `lab` and exit with its code."""
    try:
        from lab import stdout

        stdout.install()
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # wherever TensorFlow comes to be imported
        from lab import fonts, signals

        signals.install()
        fonts.house()
        with signals.final():  # pydantic, amid its imports, takes a KeyboardInterrupt for a fault in a schema
            from lab.commands import run_app

        code = run_app(sys.argv[1:])
        sys.stdout.flush()
        if fault := stdout.fault():
            print(f"lab: output cannot be written: {fault.strerror}", file=sys.stderr)
            code = 1
    except KeyboardInterrupt:
        code = 130
    # Everything is put away; taking the interpreter apart module by module would only keep the user waiting.
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # whoever read it has gone
            stream.flush()
    os._exit(code)
