"""What a study may say: a base experiment, what is varied in it, how often, against what, and where it runs.

Complete and strict like an experiment: an unknown field is refused with its path and what is allowed. A study
either varies an experiment itself or names other studies as its `parts`, each whole or with fewer levels.
docs/studies.md explains each field to its users; files.py reads it, cells.py makes experiments of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Annotated, Literal, TypeAlias

from blake3 import blake3
from pydantic import BaseModel, ConfigDict, Field, model_validator
from roundtable.errors import InvalidExperiment
from roundtable.toml import Tables
from roundtable.types import Digest, Seconds

Scalar: TypeAlias = str | int | float | bool

_NAME = "1 to 40 small letters, digits and hyphens, a letter or digit first"
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$", description=_NAME)]
Count = Annotated[int, Field(gt=0)]
Words = Annotated[str, Field(max_length=2000)]


class InvalidStudy(InvalidExperiment):
    """A study file that cannot be run."""


class Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


class Level(Table):
    """Several fields set together under one name: a dotted path, or a table, → its value."""

    name: str
    set: Tables
    typical_rounds: Count | None = None  # for the estimate, where `stop` ends runs early


class Factor(Table):
    """What is varied. `levels` are values of `field`, or named levels that set fields of their own."""

    name: Name
    label: str | None = None  # on axes; the name where left out
    field: Annotated[str, Field(min_length=1, description="a dotted path into the experiment")] | None = None
    scale: Literal["even", "linear", "log"] = "even"  # of the axis; the last two where levels are numbers
    choice: bool = False  # levels are remedies: the report says which help over the first, and which do not
    levels: Annotated[list[str | bool | int | float | Level], Field(min_length=1)]

    @model_validator(mode="after")
    def _fits(self) -> Factor:
        plain = [level for level in self.levels if not isinstance(level, Level)]
        if plain and self.field is None:
            raise ValueError(
                f"levels: found {shown(plain[0])}, but no field that it is a value of; set field"
            )
        names = [level_name(level) for level in self.levels]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"levels: found {twice[0]} twice; allowed: each level once")
        if self.scale != "even" and not all(is_number(level) for level in self.levels):
            raise ValueError(
                f"scale: found {shown(self.scale)} for levels that are not numbers; allowed: even"
            )
        return self

    def told(self, level: str) -> str:
        """A level that is only a number says of what: nodes 10, latency 50 ms."""
        try:
            float(level)
        except ValueError:
            return level
        what, _, unit = (self.label or self.name).partition(", ")
        return f"{what} {level} {unit}".rstrip()


class Published(Table):
    """A figure of somebody else's, shown beside ours: one value of a measure, or a curve of accuracies."""

    source: str
    note: str = ""
    cells: dict[str, Scalar] = {}  # factor → level; what is left out is any
    centralized: bool = False  # it belongs to training in one place
    measure: str = "accuracy"
    value: float | None = None
    high: float | None = None  # the upper end where a range was published
    curve: list[float] | None = None  # test accuracy after round 1, 2, …

    @model_validator(mode="after")
    def _fits(self) -> Published:
        if (self.value is None) == (self.curve is None):
            raise ValueError("value: found both or neither of value and curve; allowed: one of them")
        return self


class Part(Table):
    """Another study as a part of this one, cut down where it says so."""

    study: Name  # a file beside this one
    levels: dict[str, list[Scalar]] = {}  # factor → the levels to keep
    set: Tables = {}  # into its base experiment
    repeats: Annotated[int, Field(ge=1, le=100)] | None = None
    target: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    outcomes: list[str] = []  # where what is left has no others

    @property
    def whole(self) -> bool:
        return not (self.levels or self.set or self.repeats or self.target or self.outcomes)


class Study(Table):
    """One file."""

    name: Name
    title: str = ""
    question: Words = ""
    text: Words = ""  # what a reader should know: where it departs from a paper, what the data are
    base: str | None = None  # an experiment file, from this file's folder
    experiment: Tables = {}  # the base itself, or what to change in it
    design: Literal["grid", "one-at-a-time"] = "grid"
    factors: list[Factor] = []
    repeats: Annotated[int, Field(ge=1, le=100)] = 5
    least_repeats: Annotated[int, Field(ge=1, le=100)] = 3  # a budget trims no further
    seeds: list[Annotated[int, Field(ge=0, lt=2**32)]] = []  # 1, 2, … where left out
    centralized: bool = False
    published: list[Published] = []
    outcomes: Annotated[list[str], Field(min_length=1)] = [
        "accuracy"
    ]  # the first is what effects are ranked by
    target: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    target_metric: str = "accuracy"
    axis: Literal["auto", "rounds", "examples", "seconds"] = "auto"  # of learning curves
    workers: Annotated[int, Field(ge=1, le=64)] = 2
    time_limit: Annotated[Seconds, Field(gt=0)] = 7200.0  # for one repeat of one cell
    typical_rounds: Count | None = None  # for the estimate, where `stop` ends runs early
    budget_minutes: Annotated[float, Field(gt=0)] | None = None
    parts: list[Part] = []

    @model_validator(mode="after")
    def _fits(self) -> Study:
        if self.parts and (self.factors or self.base or self.experiment):
            raise ValueError(
                "parts: found with an experiment or factors; allowed: a study has parts or its own"
            )
        if not self.parts and not (self.base or self.experiment):
            raise ValueError("experiment: found nothing; allowed: [experiment], base, or [[parts]]")
        names = [factor.name for factor in self.factors]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"factors: found {shown(twice[0])} twice; allowed: each name once")
        if self.seeds and len(self.seeds) < self.repeats:
            raise ValueError(
                f"seeds: found {len(self.seeds)} for {self.repeats} repeats; allowed: one each, or none"
            )
        within("target", self.target, self.target_metric)
        for published in self.published:
            for factor, level in published.cells.items():
                known(f"published {shown(published.source)}", factor, [level], self.factors)
        return self

    def seed(self, repeat: int) -> int:
        return self.seeds[repeat] if self.seeds else repeat + 1


class Section(Table):
    """A study resolved, nothing left to look up: what cells are made of, and what each cell's record carries.

    `key` names its folder of results: the study's name, or "quick-nodes" where another study has cut it down.
    """

    key: str
    study: Study  # without `base` and `parts`; its `experiment` is complete

    @property
    def digest(self) -> Digest:
        """Of what is run; words, published figures and how much time there is may change with no harm."""
        told = {"title", "question", "text", "published", "outcomes", "target", "target_metric", "axis"}
        told |= {"repeats", "seeds", "least_repeats", "budget_minutes", "typical_rounds", "time_limit"}
        body = self.study.model_dump(mode="json", exclude=told)
        for factor in body["factors"]:
            factor.pop("label"), factor.pop("scale"), factor.pop("choice")
            for level in factor["levels"]:
                if isinstance(level, dict):
                    level.pop("typical_rounds")
        return blake3(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def level_name(level: Scalar | Level) -> str:
    """How a level is written: 10, 0.1, IID."""
    if isinstance(level, Level):
        return level.name
    return (
        ("true" if level else "false")
        if isinstance(level, bool)
        else f"{level:g}"
        if isinstance(level, float)
        else str(level)
    )


def is_number(level: Scalar | Level) -> bool:
    return isinstance(level, int | float) and not isinstance(level, bool)


def shown(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def within(where: str, target: float | None, metric: str) -> None:
    """Raises ValueError for a target above all that its metric can be."""
    if target is not None and target > 1 and ("accuracy" in metric or "iou" in metric):
        raise ValueError(f"{where}: found {target:g}; allowed: at most 1, as {metric} goes (70 % is 0.7)")


def known(where: str, factor: str, levels: Iterable[Scalar], factors: list[Factor]) -> None:
    """Raises ValueError for a factor or a level that a study does not have."""
    found = {known.name: [level_name(level) for level in known.levels] for known in factors}
    if factor not in found:
        raise ValueError(f"{where}: found factor {shown(factor)}; allowed: {', '.join(found) or 'none'}")
    for level in levels:
        if level_name(level) not in found[factor]:
            raise ValueError(
                f"{where}: found level {shown(level)} of {factor}; allowed: {', '.join(found[factor])}"
            )
