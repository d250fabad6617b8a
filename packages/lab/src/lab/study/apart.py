"""What needs TensorFlow to check a study, in a process of its own that takes it along."""

from __future__ import annotations

import signal
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import TypeVar

from roundtable.errors import InvalidTask, RoundtableError
from roundtable.experiment import Experiment

from lab.native import Folders

T = TypeVar("T")


def apart(function: Callable[[Experiment, Folders], T], experiment: Experiment, folders: Folders) -> T:
    """In a process of its own: TensorFlow's half a gigabyte is not kept for as long as a study runs.

    Raises what `function` does of our own errors; InvalidTask where the process ended without an answer.
    """
    processes = get_context("spawn")
    ours, theirs = processes.Pipe(duplex=False)
    process = processes.Process(target=_answer, args=(theirs, function, experiment, folders), daemon=True)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # inherited: Ctrl-C ends the wait here, in one line
    try:
        process.start()
    finally:
        signal.signal(signal.SIGINT, before)
    theirs.close()
    try:
        answer: T | RoundtableError = ours.recv()
    except EOFError:
        process.join()
        raise InvalidTask(
            f"task {experiment.task}: the process that builds its model ended with {process.exitcode}: is "
            "there memory for it?"
        ) from None
    finally:
        process.kill()
        process.join()
        ours.close()
    if isinstance(answer, RoundtableError):
        raise answer
    return answer


def _answer(to: Connection, function: Callable[..., object], *arguments: object) -> None:
    try:
        to.send(function(*arguments))
    except RoundtableError as error:
        to.send(error)
