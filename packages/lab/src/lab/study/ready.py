"""Whether a study can be run here, before anything is started: every cell's task, data and split.

What is wrong is said once for all cells that need it, with how to get it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from importlib.util import find_spec

from roundtable.errors import InvalidData, InvalidInput, InvalidTask
from roundtable.experiment import Experiment
from roundtable.types import Array
from roundtable.weights import Manifest

from lab import data, forecast
from lab.native import Folders
from lab.study import versions
from lab.study.apart import apart
from lab.study.cells import Cell, cells
from lab.study.evaluated import metric_names
from lab.study.measures import named
from lab.study.records import of_task
from lab.study.schema import InvalidStudy, Section, Study, shown
from lab.study.versions import Versions


@dataclass(frozen=True)
class Ready:
    """A section that can be run. `examples`: of each cell's training set; 0 where the data is elsewhere."""

    section: Section
    cells: tuple[Cell, ...]
    versions: Mapping[str, Versions]  # cell → what its results depend on
    examples: Mapping[str, int]


def check(sections: tuple[Section, ...], folders: Folders, *, elsewhere: bool) -> tuple[Ready, ...]:
    """`elsewhere`: the lab that will run it is not this machine, and may have what is missing here.

    Raises InvalidStudy (fields, levels, outcomes), InvalidTask and InvalidData (what is not here), one line a
    fault.
    """
    shelf = _Shelf(folders, elsewhere)
    ready, wrong = [], []
    missing: dict[str, tuple[type[InvalidInput], list[str]]] = {}
    for section in sections:
        try:
            _check_outcomes(section.study)
            ready.append(_section(section, shelf))
        except InvalidStudy as error:
            wrong += str(error).splitlines()
        except (InvalidData, InvalidTask) as error:
            missing.setdefault(str(error), (type(error), []))[1].append(section.key)
    if wrong:
        raise InvalidStudy("\n".join(dict.fromkeys(wrong)))
    if missing:
        kind = next(iter(missing.values()))[0]
        raise kind("\n".join(f"{', '.join(keys)}: {why}" for why, (_, keys) in missing.items()))
    return tuple(ready)


def _check_outcomes(study: Study) -> None:
    for name in study.outcomes:
        named(name, study)
    for figure in study.published:
        who = f"published {shown(figure.source)}"
        curve = named("accuracy", study), "curve", figure.curve or []
        values = [value for value in (figure.value, figure.high) if value is not None]
        try:
            of_values = [(named(figure.measure, study), "value", values)] if values else []
        except InvalidStudy as error:
            raise InvalidStudy(str(error).replace("outcomes", f"{who}: measure", 1)) from None
        for measure, field, given in (curve, *of_values):
            low, high = (end / measure.scale for end in measure.bounds)
            for value in given:
                if not low <= value <= high:
                    share = measure.unit == "%" and 1 < value <= 100
                    hint = f"; {value:g} % is {value / 100:g}" if share else ""
                    raise InvalidStudy(
                        f"{study.name}: {who}: {field}: found {value:g} for "
                        f"{measure.name}; allowed: {low:g} to {high:g}{hint}"
                    )


class _Shelf:
    """Tasks, their labels, what their models weigh and what they measure, each found out once."""

    def __init__(self, folders: Folders, elsewhere: bool) -> None:
        self.folders, self.elsewhere = folders, elsewhere
        self._labels: dict[str, tuple[str | None, Array | None]] = {}
        self._manifests: dict[str, Manifest] = {}
        self._metrics: dict[str, frozenset[str] | None] = {}

    def of(self, experiment: Experiment) -> tuple[str | None, Array | None]:
        """The task's hash, and the training set's labels [n]."""
        key = of_task(experiment)
        if key not in self._labels:
            self._labels[key] = self._read(experiment)
        return self._labels[key]

    def manifest(self, experiment: Experiment) -> Manifest:
        """Of the model, which takes seconds to build; nothing where this machine cannot."""
        key = of_task(experiment)
        if key not in self._manifests:
            here = _tensorflow_is_here()
            self._manifests[key] = apart(forecast.weighed, experiment, self.folders) if here else Manifest(())
        return self._manifests[key]

    def metrics(self, experiment: Experiment) -> frozenset[str] | None:
        """Names of what the task measures; None where this machine cannot say."""
        key = of_task(experiment)
        if key not in self._metrics:
            here = self.of(experiment)[1] is not None and _tensorflow_is_here()
            self._metrics[key] = apart(metric_names, experiment, self.folders) if here else None
        return self._metrics[key]

    def _read(self, experiment: Experiment) -> tuple[str | None, Array | None]:
        try:
            found = data.task_of(experiment, self.folders.tasks)
            return found.hash, data.train_labels(experiment, self.folders)
        except InvalidInput:
            if self.elsewhere:
                return None, None
            raise


def _tensorflow_is_here() -> bool:
    return find_spec("tensorflow") is not None


def _section(section: Section, shelf: _Shelf) -> Ready:
    found = cells(section)
    known: dict[tuple[str | None, int], Versions] = {}
    versions_of, examples = {}, {}
    for cell in found:
        task, labels = shelf.of(cell.experiment)
        key = (task, id(labels))
        if key not in known:
            known[key] = versions.here(section.digest, task, labels)
        versions_of[cell.id] = known[key]
        examples[cell.id] = 0 if labels is None else len(labels)
        if labels is not None:
            _split(section, cell, labels, shelf)
    _check_metrics(section.study, found, shelf)
    _check_evaluated(section.study, found)
    return Ready(section, found, versions_of, examples)


def _check_evaluated(study: Study, found: tuple[Cell, ...]) -> None:
    """Raises InvalidStudy for an outcome of an evaluation that no cell asks for."""
    asked = [*study.outcomes, study.target_metric, *(figure.measure for figure in study.published)]
    for start, field in (("personal_", "personalized"), ("federated.", "federated")):
        wanted = next((name for name in asked if name.startswith(start)), None)
        if wanted and not any(getattr(cell.experiment.evaluation, field) for cell in found):
            raise InvalidStudy(
                f"{study.name}: outcomes: found {shown(wanted)}, which no run will have; allowed: with "
                f"evaluation.{field} = true"
            )


def _check_metrics(study: Study, found: tuple[Cell, ...], shelf: _Shelf) -> None:
    """Raises InvalidStudy for a metric that none of the study's tasks has."""
    given = [("outcomes", name) for name in study.outcomes]
    given += [("published", figure.measure) for figure in study.published]
    asked = [(field, name) for field, name in given if name.partition(".")[0] in ("metrics", "federated")]
    if study.target_metric not in ("accuracy", "loss"):
        asked.append(("target_metric", study.target_metric))
    tasks = {of_task(cell.experiment): cell.experiment for cell in found}
    known: set[str] = set()
    for experiment in tasks.values() if asked else ():
        names = shelf.metrics(experiment)
        if names is None:
            return  # it may have any
        known |= names
    wrong = []
    for field, name in asked:
        metric = name.removeprefix("metrics.").removeprefix("federated.")
        if metric not in known:
            near = get_close_matches(metric, known, 1)
            hint = f" (did you mean {name.removesuffix(metric)}{near[0]}?)" if near else ""
            own = sorted({experiment.task for experiment in tasks.values()})
            wrong.append(
                f"{study.name}: {field}: found {shown(name)}{hint}, which task {' or '.join(own)} does not "
                f"measure; allowed: {', '.join(sorted(known))}"
            )
    if wrong:
        raise InvalidStudy("\n".join(dict.fromkeys(wrong)))


def _split(section: Section, cell: Cell, labels: Array, shelf: _Shelf) -> None:
    """Raises InvalidStudy where a seed's data cannot be dealt out so."""
    if cell.experiment.partition.kind == "pinned":
        raise InvalidStudy(
            f"{section.key}: partition.kind: found pinned; a study deals out data that every worker has: use "
            "`lab run --nodes-dir` for data that nodes bring"
        )
    for repeat in range(section.study.repeats):
        seed = section.study.seed(repeat)
        try:
            parts = cell.experiment.partition.split(labels, cell.experiment.clients.count, seed)
            seeded = cell.experiment.model_copy(update={"seed": seed})
            sizes = [len(part) for part in parts]
            forecast.refuse_impossible(seeded, sizes, partial(shelf.manifest, seeded))
        except InvalidInput as error:
            raise InvalidStudy(f"{section.key}: cell {cell.id}, seed {seed}: {error}") from None
