"""A run's weights as a file to use elsewhere: safetensors as the aggregator keeps it, or a Keras model."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from roundtable.codec import decode
from roundtable.errors import InvalidSetting, ShapeMismatch
from roundtable.experiment import Experiment
from roundtable.layout import DTYPES, read_header
from roundtable.tasks import Task
from roundtable.tasks.loading import blaming, build
from roundtable.types import RunId
from roundtable.weights import ArraySpec, Manifest, Weights

from lab import data
from lab.api import Api
from lab.native import Folders

ENDINGS = (".safetensors", ".keras")


def check_target(target: Path) -> None:
    """Raises InvalidSetting before anything is started for it."""
    if target.suffix not in ENDINGS:
        raise InvalidSetting(
            f"{target}: its name must end in {' or '.join(ENDINGS)}, which says what is written"
        )
    if not target.absolute().parent.is_dir():
        raise InvalidSetting(f"{target}: there is no folder {target.parent}")


def export(api: Api, run: RunId, experiment: Experiment, which: str, target: Path, folders: Folders) -> None:
    """Write `target`, whole or not at all."""
    try:
        if target.suffix == ".safetensors":
            api.download(run, which, target)
            return
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch) / "model.safetensors"
            api.download(run, which, file)
            weights = read_weights(file.read_bytes())
        _save_keras(experiment, folders, weights, target)
    except OSError as error:
        raise InvalidSetting(f"{target}: {error.strerror or error}") from None


def read_weights(body: bytes) -> Weights:
    """The group `weights` of an exported file, which does not say what is trained: all is taken to be."""
    entries = read_header(body).entries
    names = sorted(name for name in entries if name.startswith("weights/"))
    arrays = [
        ArraySpec(name.split("/")[-1], entries[name].shape, DTYPES[entries[name].code]) for name in names
    ]
    return decode(body, {"weights": Manifest(tuple(arrays))}).groups["weights"]


def _save_keras(experiment: Experiment, folders: Folders, weights: Weights, target: Path) -> None:
    task = data.task_of(experiment, folders.tasks).task
    model = assigned(experiment, task, weights)
    unfit = f"task {experiment.task}: Keras cannot save its model (export to .safetensors, or mend it)"
    draft = target.with_name(f".{target.stem}.part.keras")
    try:
        with blaming(unfit, but=(OSError,)):  # the disk's
            model.save(draft)
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)


def assigned(experiment: Experiment, task: Task, weights: Weights) -> Any:
    """The task's Keras model with these weights. Raises InvalidTask; ShapeMismatch where they are another
    model's.
    """
    model = build(task, experiment.task)
    held = model.weights
    shapes = [tuple(variable.shape) for variable in held]
    if shapes != [spec.shape for spec in weights.manifest.arrays]:
        raise ShapeMismatch(
            f"task {experiment.task} now makes another model than this run trained: restore its source"
        )
    for variable, array in zip(held, weights.arrays, strict=True):
        variable.assign(array)
    return model
