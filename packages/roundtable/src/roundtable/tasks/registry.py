"""From the name in an experiment to a task: built in, or the user's own file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Final

from roundtable.errors import InvalidTask
from roundtable.tasks.loading import Option, construct, read_class, source_hash
from roundtable.tasks.task import Task
from roundtable.types import Digest

BUILT_IN: Final[Mapping[str, str]] = {  # name → module:class
    "cifar10": "roundtable.tasks.cifar10:Cifar10",
    "clouds": "roundtable.tasks.clouds:Clouds",
    "digits": "roundtable.tasks.digits:Digits",
    "mnist": "roundtable.tasks.mnist:Mnist",
}


@dataclass(frozen=True)
class Found:
    """A task, and the hash of what decides its results: its source, what all tasks share, its options."""

    task: Task
    hash: Digest


def find(name: str, options: Mapping[str, Option], tasks_dir: Path) -> Found:
    """The task an experiment names: "mnist", or "my_task:MyTask" for class MyTask in `tasks_dir`/my_task.py.

    Raises InvalidTask, in one line, where there is none, its file cannot be run, or it has no such options.
    """
    if name in BUILT_IN:
        module_name, class_name = BUILT_IN[name].split(":")
        module = import_module(module_name)
        assert module.__file__ is not None
        kind, source = getattr(module, class_name), _source(Path(module.__file__))
    elif ":" in name:
        kind, source = read_class(name, tasks_dir)
    else:
        raise InvalidTask(
            f'task = "{name}": no such task; built in are {", ".join(BUILT_IN)}, '
            f'and your own is named "file:Class", for a class in {tasks_dir}/file.py'
        )
    return Found(construct(kind, options, name), source_hash(source + _shared(), options))


def _shared() -> bytes:
    """What else decides results: loss and metrics of classes, and which examples a client has."""
    here = Path(__file__)
    files = (here.with_name("classification.py"), here.parents[1] / "partitioners.py")
    return b"".join(one.read_bytes() for one in files)


def _source(file: Path) -> bytes:
    """A module's bytes; of a task that is a package, those of all its files, in the order of their names."""
    files = sorted(file.parent.glob("*.py")) if file.name == "__init__.py" else [file]
    return b"".join(one.read_bytes() for one in files)
