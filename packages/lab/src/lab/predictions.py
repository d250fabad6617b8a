"""What a trained model makes of a few test examples, drawn beside the truth, for tasks with pictures.

Imports TensorFlow, as only export and the forecast of unequal machines do: for such tasks, once a run is over
(data.draws).
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from roundtable.errors import InvalidInput
from roundtable.experiment import Experiment
from roundtable.tasks.task import Data
from roundtable.types import Array, RunId
from roundtable.weights import Weights

from lab import data
from lab.api import Api
from lab.charts import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, YELLOW
from lab.export import assigned, read_weights
from lab.native import Folders

EXAMPLES: Final = 5
# Each class brighter or darker than those before it, so that a page printed in grey still reads.
CLASSES: Final = (BLACK, YELLOW, SKY, VERMILION, GREEN, PURPLE, ORANGE, BLUE, GREY)


def fetch(api: Api, run: RunId) -> Weights:
    """The run's latest weights."""
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "model.safetensors"
        api.download(run, "latest", file)
        return read_weights(file.read_bytes())


def png(experiment: Experiment, folders: Folders, weights: Weights, title: str) -> bytes:
    """The figure as a PNG. Raises InvalidInput where task, data or model do not fit the weights."""
    image = io.BytesIO()
    classes = data.task_of(experiment, folders.tasks).task.classes
    drawing = figure(predicted(experiment, folders, weights), classes, title)
    drawing.savefig(image, format="png", dpi=130, metadata={"Software": None})
    return image.getvalue()


def predicted(
    experiment: Experiment, folders: Folders, weights: Weights, held: Data | None = None
) -> dict[str, Array]:
    """A few test examples as Task.pictures shows them: name → [n, h, w(, 3)]. Raises InvalidInput.

    `held`: the task's data, where they have been loaded before.
    """
    task = data.task_of(experiment, folders.tasks).task
    with data.calling(f"task {experiment.task}: its predictions cannot be drawn"):
        held = held or task.load(folders.datasets)
        chosen = choice(task.labels(held.y_test))
        x, y = held.x_test[chosen], held.y_test[chosen]
        outputs = np.asarray(assigned(experiment, task, weights)(x))
        return dict(task.pictures(x, y, outputs))


def choice(labels: Array) -> Array:
    """A few examples, of as many labels as there are: the first one of each, then the second: sorted."""
    rows = {label: np.flatnonzero(labels == label) for label in np.unique(labels)}
    turn = [(place, row) for found in rows.values() for place, row in enumerate(found[:EXAMPLES])]
    return np.array(sorted(row for _, row in sorted(turn)[:EXAMPLES]), np.int64)


def figure(shown: Mapping[str, Array], classes: Sequence[str], title: str) -> Figure:
    """A row for each name, a column for each example: `shown` as Task.pictures has it, [n, h, w(, 3)]."""
    count = max(len(pictures) for pictures in shown.values())
    drawing = Figure(figsize=(1.5 * count + 0.9, 1.55 * len(shown) + 0.9), layout="constrained")
    panels = drawing.subplots(len(shown), count, squeeze=False)
    colours = ListedColormap([CLASSES[label % len(CLASSES)] for label in range(max(len(classes), 1))])
    norm = BoundaryNorm(np.arange(max(len(classes), 1) + 1) - 0.5, colours.N)
    for row, (name, pictures) in zip(panels, shown.items(), strict=True):
        for axes, picture in zip(row, pictures, strict=True):
            _show(axes, picture, colours, norm)
        row[0].set_ylabel(name, fontsize=10)
    drawing.suptitle(title, fontsize=10)
    if any(pictures.ndim == 3 for pictures in shown.values()):
        handles = [
            Patch(facecolor=colours(label), edgecolor="#444444", label=name)
            for label, name in enumerate(classes)
        ]
        drawing.legend(
            handles=handles, ncols=len(handles), loc="outside lower center", frameon=False, fontsize=9
        )
    return drawing


def _show(axes: Any, picture: Array, colours: Any, norm: Any) -> None:
    options = {} if picture.ndim == 3 else {"cmap": colours, "norm": norm}
    axes.imshow(picture, interpolation="nearest", **options)
    axes.set_xticks([])
    axes.set_yticks([])


def if_possible(
    experiment: Experiment, folders: Folders, weights: Weights | None, title: str
) -> tuple[bytes | None, str]:
    """(the figure, nothing) or (nothing, why not): a report without it is still a report."""
    if weights is None:
        return None, ""
    try:
        return png(experiment, folders, weights, title), ""
    except InvalidInput as error:
        return None, f"predictions are not drawn: {error}"
