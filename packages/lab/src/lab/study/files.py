"""A study as a file: a base experiment, what is varied in it, how often, against what, and where it runs.

`studies/*.toml`, complete and strict like an experiment: an unknown field is refused with its path and what
is allowed. A study either varies an experiment itself or names other studies as its `parts`, each whole or
with fewer levels. docs/studies.md explains each field to its users; cells.py makes experiments of it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from blake3 import blake3
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from roundtable.errors import InvalidExperiment
from roundtable.faults import faults
from roundtable.types import Digest, Seconds

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Body: TypeAlias = dict[str, Any]
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
    set: Body
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
    set: Body = {}  # into its base experiment
    repeats: Annotated[int, Field(ge=1, le=100)] | None = None
    target: Annotated[float, Field(gt=0, le=1)] | None = None

    @property
    def whole(self) -> bool:
        return not (self.levels or self.set or self.repeats or self.target)


class Study(Table):
    """One file."""

    name: Name
    title: str = ""
    question: Words = ""
    text: Words = ""  # what a reader should know: where it departs from a paper, what the data are
    base: str | None = None  # an experiment file, from this file's folder
    experiment: Body = {}  # the base itself, or what to change in it
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
    target: Annotated[float, Field(gt=0, le=1)] | None = None
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
        for published in self.published:
            for factor, level in published.cells.items():
                _known(f"published {shown(published.source)}", factor, [level], self.factors)
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
        told |= {"repeats", "least_repeats", "budget_minutes", "typical_rounds", "time_limit"}
        body = self.study.model_dump(mode="json", exclude=told)
        for factor in body["factors"]:
            factor.pop("label"), factor.pop("scale"), factor.pop("choice")
        return blake3(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def load(path: Path) -> tuple[Study, tuple[Section, ...]]:
    """A study file and what it comes to. Raises InvalidStudy, one line a fault."""
    study = _read(path)
    if not study.parts:
        return study, (Section(key=study.name, study=_resolved(study, path)),)
    sections = []
    for part in study.parts:
        other = path.parent / f"{part.study}.toml"
        if not other.exists():
            near = sorted(found.stem for found in path.parent.glob("*.toml"))
            raise InvalidStudy(f"{path}: parts: found {shown(part.study)}; allowed: {', '.join(near)}")
        named = _read(other)
        if named.parts:
            raise InvalidStudy(f"{path}: parts: {part.study} has parts of its own; name those")
        sections.append(_cut(part, _resolved(named, other), f"{path}: parts.{part.study}", study.name))
    keys = [section.key for section in sections]
    if twice := sorted({key for key in keys if keys.count(key) > 1}):
        raise InvalidStudy(f"{path}: parts: found {shown(twice[0])} twice; allowed: each study once")
    return study, tuple(sections)


def _cut(part: Part, study: Study, where: str, whole: str) -> Section:
    """The part as it is asked for. Raises InvalidStudy."""
    if part.whole:
        return Section(key=study.name, study=study)
    if own := sorted({"seed", "name"} & part.set.keys()):
        raise InvalidStudy(
            f"{where}: set: found {own[0]}, which each cell has of its own; allowed: any other field"
        )
    factors = []
    for name, wanted in part.levels.items():
        try:
            _known("levels", name, wanted, study.factors)
        except ValueError as error:
            raise InvalidStudy(f"{where}: {error}") from None
    for factor in study.factors:
        kept = {level_name(level) for level in part.levels.get(factor.name, [])}
        levels = [level for level in factor.levels if not kept or level_name(level) in kept]
        factors.append(factor.model_copy(update={"levels": levels}))
    left = {factor.name: {level_name(level) for level in factor.levels} for factor in factors}
    published = [
        figure
        for figure in study.published
        if all(level_name(level) in left[name] for name, level in figure.cells.items())
    ]
    changed: Body = {
        "experiment": merged(study.experiment, part.set),
        "factors": factors,
        "published": published,
    }
    if part.repeats:
        if study.seeds and len(study.seeds) < part.repeats:
            raise InvalidStudy(
                f"{where}: repeats: found {part.repeats}; allowed: at most {len(study.seeds)}, for which "
                f"{part.study} has seeds"
            )
        changed |= {"repeats": part.repeats, "least_repeats": min(part.repeats, study.least_repeats)}
    if part.target:
        changed["target"] = part.target
    return Section(key=f"{whole}-{study.name}", study=study.model_copy(update=changed))


def _resolved(study: Study, path: Path) -> Study:
    """Its base read and what it changes put in."""
    if study.base is None:
        return study
    base = _toml(path.parent / study.base, f"{path}: base: ")
    return study.model_copy(update={"base": None, "experiment": merged(base, study.experiment)})


def _read(path: Path) -> Study:
    body = _toml(path)
    if "task" in body and not body.keys() & {"base", "experiment", "factors", "parts"}:
        raise InvalidStudy(f"{path}: is an experiment, not a study: `lab run` takes it")
    try:
        study = Study.model_validate(body)
    except ValidationError as error:
        raise InvalidStudy("\n".join(f"{path}: {line}" for line in faults(error, Study))) from None
    if wrong := [*_vain(study)]:
        raise InvalidStudy("\n".join(f"{path}: {line}" for line in wrong))
    return study


def _vain(study: Study) -> Iterator[str]:
    """What a study cannot mean. Not the model's own validators, which see records of older studies too."""
    if twice := sorted({seed for seed in study.seeds if study.seeds.count(seed) > 1}):
        yield f"seeds: found {twice[0]} twice; allowed: each seed once, for it would give the same run again"
    if "least_repeats" in study.model_fields_set and study.least_repeats > study.repeats:
        yield f"least_repeats: found {study.least_repeats}; allowed: at most repeats, {study.repeats}"


def _toml(path: Path, where: str = "") -> Body:
    try:
        body: Body = tomllib.loads(path.read_text(encoding="utf-8-sig"))
        return body
    except OSError as error:
        raise InvalidStudy(
            f"{where}{path}: cannot be read ({error.strerror}); studies/ has examples"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidStudy(f"{where}{path}: is not TOML ({error})") from None
    except ValueError:  # Python's own, without a place
        raise InvalidStudy(
            f"{where}{path}: has a number of more than 4,300 digits, too many to read"
        ) from None


def merged(base: Body, changes: Body) -> Body:
    """`changes` put into `base`, neither of them touched. A key may be a dotted path.

    A table that makes a choice (it has `kind` or `name`) takes the other's place, as the fields of another
    choice mean nothing to it; any other table is merged. A value of "" for a table's field is a value.
    """
    result = dict(base)
    for path, value in changes.items():
        head, _, rest = path.partition(".")
        change = {rest: value} if rest else value
        before = result.get(head)
        if isinstance(change, dict) and isinstance(before, dict) and not change.keys() & {"kind", "name"}:
            result[head] = merged(before, change)
        elif rest:
            result[head] = merged({}, {rest: value})
        elif isinstance(change, dict):
            result[head] = merged({}, change)
        else:
            result[head] = value
    return result


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


def _known(where: str, factor: str, levels: Iterable[Scalar], factors: list[Factor]) -> None:
    """Raises ValueError for a factor or a level that a study does not have."""
    found = {known.name: [level_name(level) for level in known.levels] for known in factors}
    if factor not in found:
        raise ValueError(f"{where}: found factor {shown(factor)}; allowed: {', '.join(found) or 'none'}")
    for level in levels:
        if level_name(level) not in found[factor]:
            raise ValueError(
                f"{where}: found level {shown(level)} of {factor}; allowed: {', '.join(found[factor])}"
            )
