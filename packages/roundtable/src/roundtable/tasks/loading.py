"""The user's own task: one Python file in the tasks folder, run as it is; and the options given to any
task.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias, get_type_hints

from blake3 import blake3
from pydantic import ConfigDict, TypeAdapter, ValidationError

from roundtable.errors import InvalidTask, RoundtableError
from roundtable.tasks.importing import import_tensorflow
from roundtable.tasks.task import Task
from roundtable.types import Digest

Option: TypeAlias = str | int | float | bool


def read_class(name: str, tasks_dir: Path) -> tuple[type[Task], bytes]:
    """The class that "file:Class" names in `tasks_dir`, and what tells it from any other: the bytes of its
    file, a zero, its name. Raises InvalidTask.
    """
    stem, _, class_name = name.partition(":")
    if not stem.isidentifier() or not class_name.isidentifier():
        raise InvalidTask(f'task = "{name}": write "file:Class", for a class in {tasks_dir}/file.py')
    path = tasks_dir / f"{stem}.py"
    try:
        source = path.read_bytes()
    except OSError as error:
        there = sorted(file.stem for file in tasks_dir.glob("*.py")) if tasks_dir.is_dir() else []
        raise InvalidTask(
            f'task = "{name}": cannot read {path} ({error.strerror}); '
            f"there is {', '.join(there) or 'nothing'} in {tasks_dir}"
        ) from None
    classes = {
        found.__name__: found
        for found in _run(path, stem, source).values()
        if isinstance(found, type) and issubclass(found, Task) and not inspect.isabstract(found)
    }
    if class_name not in classes:
        raise InvalidTask(
            f'task = "{name}": {path} has no complete class {class_name} derived from roundtable.tasks.Task; '
            f"it has {', '.join(sorted(classes)) or 'none'} (a class is complete with model, loss and load)"
        )
    return classes[class_name], source + b"\0" + class_name.encode()


def _run(path: Path, stem: str, source: bytes) -> dict[str, Any]:
    """The names a file defines. What is hashed is what runs: the bytes are read once."""
    module_name = f"roundtable_task_{blake3(source).hexdigest()[:16]}_{stem}"
    if module_name not in sys.modules:
        spec = importlib.util.spec_from_file_location(module_name, path)
        assert spec is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module  # dataclasses and pickles look there
        try:
            with blaming(f"{path} cannot be run"):
                exec(compile(source, str(path), "exec"), module.__dict__)
        except InvalidTask:
            del sys.modules[module_name]
            raise
    return vars(sys.modules[module_name])


def construct(kind: type[Task], options: Mapping[str, Option], name: str) -> Task:
    """A task with its options, checked against the constructor's keyword arguments and their annotations."""
    parameters = {
        parameter.name: parameter
        for parameter in inspect.signature(kind).parameters.values()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    for option in options:
        if option not in parameters:
            raise InvalidTask(
                f"task_options.{option}: found an unknown field; "
                f"allowed for task {name}: {', '.join(parameters) or 'none'}"
            )
    for parameter in parameters.values():
        if parameter.default is parameter.empty and parameter.name not in options:
            raise InvalidTask(f"task_options.{parameter.name}: found nothing; task {name} needs this option")
    with blaming(f"task {name}"):
        hints = get_type_hints(kind.__init__)
        task = kind(
            **{option: _checked(option, value, hints.get(option, Any)) for option, value in options.items()}
        )
    names: object = task.classes
    if not isinstance(names, tuple | list) or not all(isinstance(label, str) for label in names):
        raise InvalidTask(
            f"task {name}: classes is {str(names)[:80]!r}; it must be a tuple of texts, the labels' names"
        )
    return task


def _checked(option: str, value: Option, annotation: Any) -> Any:
    try:
        return TypeAdapter(annotation, config=ConfigDict(strict=True)).validate_python(value)
    except ValidationError as error:
        allowed = error.errors()[0]["msg"].removeprefix("Input should be ")
        raise InvalidTask(f"task_options.{option}: found {value!r}; allowed: {allowed}") from None


def build(task: Task, name: str, seed: int = 0) -> Any:
    """What `task.model()` gives. It imports TensorFlow, which takes seconds.

    Weights depend on the seed. Whatever else is drawn there, constants of the graph say, belongs to the model
    and not to a run: take it from a model that was built without one. Keras is as it comes, whatever the
    user's keras.json says, and whatever other models left: names it has counted, a dtype policy. Raises
    InvalidTask.
    """
    import_tensorflow()
    import keras

    keras.utils.clear_session(free_memory=False)
    keras.config.set_floatx("float32")
    keras.config.set_epsilon(1e-7)
    keras.config.set_image_data_format("channels_last")
    with blaming(f"task {name}: model() failed"):
        keras.utils.set_random_seed(seed)
        try:
            return task.model()
        except AttributeError as error:
            if error.obj is not task:
                raise
            raise InvalidTask(
                f"task {name}: model() failed: {_line(error)}; what load() finds out is not there yet: make "
                "it an option"
            ) from error


def source_hash(source: bytes, options: Mapping[str, Option]) -> Digest:
    """What a task does is in its file and its options: BLAKE3 of the bytes, a zero, and the options as sorted
    JSON.
    """
    body = json.dumps(dict(options), sort_keys=True, separators=(",", ":"))
    return blake3(source + b"\0" + body.encode()).hexdigest()


@contextmanager
def blaming(what: str, *, but: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Whatever the code of a task raises, sys.exit() too, becomes InvalidTask: one line with the error and
    where in the file it arose. `but`: what is none of the task's.
    """
    try:
        yield
    except RoundtableError:
        raise
    except but:
        raise
    except (Exception, SystemExit) as error:
        raise InvalidTask(f"{what}: {_line(error)}") from error


def _line(error: BaseException) -> str:
    said = traceback.format_exception_only(type(error), error)[-1].strip().splitlines()[0]
    if isinstance(error, SyntaxError) and error.filename:
        return f"{said} ({error.filename}:{error.lineno})"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__]
    inside = [frame for frame in frames if "site-packages" not in frame.filename]
    where = (inside or frames)[-1:]
    return said + "".join(f" ({frame.filename}:{frame.lineno})" for frame in where)
