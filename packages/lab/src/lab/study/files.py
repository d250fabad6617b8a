"""A study from its file, `studies/*.toml`: its base read, its parts looked up and cut down.

What may stand in one is said by schema.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError
from roundtable.faults import faults
from roundtable.toml import Tables, read_tables

from lab.study.schema import InvalidStudy, Part, Section, Study, known, level_name, shown, within


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
    try:
        for name, wanted in part.levels.items():
            known("levels", name, wanted, study.factors)
        within("target", part.target, study.target_metric)
    except ValueError as error:
        raise InvalidStudy(f"{where}: {error}") from None
    for factor in study.factors:
        kept = {level_name(level) for level in part.levels.get(factor.name, [])}
        levels = [level for level in factor.levels if not kept or level_name(level) in kept]
        factors.append(factor.model_copy(update={"levels": levels}))
    left = {factor.name: {level_name(level) for level in factor.levels} for factor in factors}
    another = part.target not in (None, study.target)
    published = [
        figure
        for figure in study.published
        if all(level_name(level) in left[name] for name, level in figure.cells.items())
        if not part.set  # they are of what was run
        if not (another and figure.measure.endswith("_to_target"))
    ]
    changed: Tables = {
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
    if part.outcomes:
        changed["outcomes"] = part.outcomes
    return Section(key=f"{whole}-{study.name}", study=study.model_copy(update=changed))


def _resolved(study: Study, path: Path) -> Study:
    """Its base read and what it changes put in."""
    if study.base is None:
        return study
    base = _tables(path.parent / study.base, f"{path}: base: ")
    return study.model_copy(update={"base": None, "experiment": merged(base, study.experiment)})


def _read(path: Path) -> Study:
    body = _tables(path)
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
    if twice_told := sorted({name for name in study.outcomes if study.outcomes.count(name) > 1}):
        yield f"outcomes: found {shown(twice_told[0])} twice; allowed: each once"
    for factor in study.factors:
        if factor.scale == "log" and (low := min(float(level_name(level)) for level in factor.levels)) <= 0:
            yield f'factors.{factor.name}: scale: found "log" with level {low:g}; allowed: even, linear'
    for figure in study.published:
        who = f"published {shown(figure.source)}"
        if figure.centralized and figure.cells:
            yield f"{who}: cells: found some with centralized = true; allowed: one of the two"
        if figure.centralized and not study.centralized:
            yield f"{who}: centralized: found true; allowed: false, for the study has no such training"
        if figure.high is not None and (figure.value is None or figure.high < figure.value):
            yield f"{who}: high: found {figure.high:g}; allowed: the upper end of what begins at value"
    for part in study.parts:
        for name in (name for name, levels in part.levels.items() if not levels):
            yield f"parts.{part.study}: levels: found none of {name}; allowed: those to keep, or no such line"


def _tables(path: Path, where: str = "") -> Tables:
    return read_tables(path, "studies/ has examples", where, InvalidStudy)


def merged(base: Tables, changes: Tables) -> Tables:
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
