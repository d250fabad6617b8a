"""What each cell's last weights make of the same test examples, for tasks with pictures to show.

    OUT/KEY/predictions/CELL.npz     the pictures' pixels, of the first repeat that finished
    OUT/.lab/…/RUN/weights/          the weights they are made of, kept until then (sitting.py)

Made once, after the lab has been put down, since it takes TensorFlow; figures are drawn from the pixels.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from textwrap import fill
from typing import Final

import numpy as np
from roundtable.errors import InvalidInput, RoundtableError, StorageFull
from roundtable.tasks.task import Data
from roundtable.types import Array

from lab import data
from lab.export import read_weights
from lab.native import Folders
from lab.predictions import figure, predicted
from lab.study.plots import Plot, plotted
from lab.study.records import NO_ROOM, CellRecord, Repeat, Store
from lab.study.schema import Section
from lab.study.sitting import weights_of
from lab.study.summary import Summary

TOGETHER: Final = 5  # cells in one figure
ACROSS: Final = 20  # letters beside a row of pictures
OF_PREDICTIONS: Final = "prediction"  # the last row of Task.pictures: what the weights make of it


def make(out: Path, sections: Sequence[Section], folders: Folders) -> Iterator[str]:
    """Those that are missing and whose weights are there; says what cannot be made.

    `folders.runs` is the lab's.
    """
    loaded: dict[str, Data] = {}  # by what a task is made of
    for section in sections:
        for record in Store(out / section.key).all().values():
            repeat = _first(record)
            if repeat is None or not data.draws(record.experiment, folders.tasks):
                continue
            if (place := _place(out, section.key, record.cell, repeat)).exists():
                continue
            try:
                weights = weights_of(folders, repeat).read_bytes()
                experiment = record.experiment
                own = f"{experiment.task} {sorted(experiment.task_options.items())}"
                if own not in loaded:
                    loaded[own] = data.task_of(experiment, folders.tasks).task.load(folders.datasets)
                _write(place, predicted(experiment, folders, read_weights(weights), loaded[own]))
            except OSError:
                continue  # not kept: `of` says so
            except RoundtableError as error:
                yield f"{section.key}/{record.cell}: {error}"


def of(found: Summary, out: Path, tasks: Path, note: str = "") -> tuple[list[Plot], str]:
    """The images, the masks, and a row of predictions for each cell: so many a figure as a page holds.

    And a sentence that names the cells whose predictions cannot be shown; empty where there is none. `note`:
    of the data, to stand in each figure.
    """
    rows: dict[str, Array] = {}
    truth: dict[str, Array] = {}
    classes: tuple[str, ...] = ()
    gone, others = [], []
    for row in (*found.rows, *found.baselines):
        repeat = None if row.record is None else _first(row.record)
        if repeat is None or not data.draws(row.cell.experiment, tasks):
            continue
        if (shown := _read(_place(out, found.section.key, row.cell.id, repeat))) is None:
            gone.append(found.title(row))
            continue
        own = shown.pop(OF_PREDICTIONS)
        if truth and not _same(truth, shown):
            others.append(found.title(row))  # it cannot stand below the same images
            continue
        truth, rows[found.title(row)] = shown, own
        with suppress(InvalidInput):
            classes = tuple(data.task_of(row.cell.experiment, tasks).task.classes)
    names = list(rows)
    drawn = []
    for page, first in enumerate(range(0, len(names), TOGETHER), 1):
        own_rows = {name: rows[name] for name in names[first : first + TOGETHER]}
        about = f"Predictions of {found.section.key} beside the truth ({'; '.join(own_rows)})"
        legend = "Rows: test images, their masks, then what one run's last weights of each cell make of them"
        name = f"{found.section.key}-predictions-{page}"
        labelled = {fill(row, ACROSS): own for row, own in own_rows.items()}
        drawn.append(plotted(figure({**truth, **labelled}, classes, ""), name, about, legend, note))
    said = [f"Predictions are not shown, for the weights were not kept here: {'; '.join(gone)}."] * bool(gone)
    said += [f"Predictions are not shown, for their test images are others: {'; '.join(others)}."] * bool(
        others
    )
    return drawn, " ".join(said)


def _same(one: dict[str, Array], other: dict[str, Array]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def _first(record: CellRecord) -> Repeat | None:
    finished = [r for r in record.repeats if r.state == "finished" and r.weights_hash is not None]
    return min(finished, key=lambda repeat: repeat.seed, default=None)


def _place(out: Path, key: str, cell: str, repeat: Repeat) -> Path:
    """Named by the weights too: those of another run, as of one set aside, are not shown for its own."""
    return out / key / "predictions" / f"{cell}-{str(repeat.weights_hash)[:16]}.npz"


def _write(place: Path, shown: dict[str, Array]) -> None:
    body = io.BytesIO()
    np.savez_compressed(body, **shown)  # type: ignore[arg-type]  # numpy's stub takes its flag for one of them
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        draft = place.with_name(f".{place.name}")
        draft.write_bytes(body.getvalue())
        draft.replace(place)
    except OSError as error:
        if error.errno in NO_ROOM:
            raise StorageFull(f"{place}: no room to write it ({error.strerror})") from None
        raise


def _read(place: Path) -> dict[str, Array] | None:
    try:
        with np.load(place, allow_pickle=False) as kept:
            found = {name: kept[name] for name in kept.files}
    except (OSError, ValueError, zipfile.BadZipFile):
        return None
    return found if OF_PREDICTIONS in found else None
