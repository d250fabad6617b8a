"""A study's report: one self-contained page, the same as Markdown with figures beside it, and CSV.

    OUT/report.html     to open, print and send; no outside asset
    OUT/report.md       the same for a repository; figures/*.png and .svg beside it
    OUT/cells.csv       one line a cell and measure, its tasks' metrics too: mean, interval, n
    OUT/effects.csv     one line a level against its factor's first: difference, interval, p, n
    OUT/repeats.csv     one line a repeat, raw

Made of the cells' records alone, again at any time.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from roundtable.errors import InvalidSetting, NotPossible, StorageFull, Unknown

from lab import data
from lab.live import clock
from lab.machine import Environment as Machine
from lab.options import TASKS
from lab.study import claims, clocks, curves, gaps, grids, pictures, plots, words
from lab.study.effects import ranked, strata
from lab.study.measures import target_of, target_words
from lab.study.plots import Plot
from lab.study.records import NO_ROOM, CellRecord, Store, data_hashes, other_code
from lab.study.schema import Section, Study
from lab.study.summary import Summary, summary

_MEASURED = "of the processors by RAPL, or of a Jetson by its sensor; with whatever else ran"
_SYNTHETIC = "The clouds are synthetic scenes."


@dataclass(frozen=True)
class Part:
    """A section as the templates see it."""

    key: str
    study: Study
    data: list[str]  # what each data set is, where its task says so
    synthetic: str  # for captions, where some of it is
    words: list[str]
    plots: list[Plot]
    tables: list[tuple[str, grids.Table]]
    commands: list[tuple[str, str]]
    windows: list[tuple[str, str]]  # Grafana


@dataclass(frozen=True)
class Report:
    study: Study
    note: str  # whoever wrote it: of how it was run
    parts: list[Part]
    ranking: list[str]
    effects: grids.Table | None
    published: grids.Table | None
    environment: list[tuple[str, str]]
    state: str  # how much of it has been run
    codes: str  # which part is of which code, where they are of several
    trouble: list[str]  # what of a study without parts is missing
    coverage: grids.Table | None  # of one with parts


def gather(
    study: Study, sections: Sequence[Section], out: Path, command: str, tasks: Path = TASKS, note: str = ""
) -> Report:
    """Read the records and work everything out. `command`: repeats a cell, `{cell}` and `{seed}` put in.

    Raises Unknown where nothing has been run, NotPossible where records do not belong together.
    """
    every = []
    for section in sections:
        records = Store(out / section.key).all()
        _check_together(section, records)
        # Words and published figures may have been improved since; what was run is the same.
        every.append(summary(section, records))
    found = [own for own in every if own.records]
    if not found:
        raise Unknown(f"nothing of {study.name} has been run in {out}/: `lab study run` does")
    whys = [gaps.why(own, Store(out / own.section.key).unfinished) for own in every]
    table = ranked(found)
    return Report(
        study=study,
        note=note,
        parts=[_part(own, command, out, tasks) for own in found],
        ranking=claims.of_ranking(table),
        effects=grids.of_effects(table),
        published=grids.of_published(found),
        environment=_environment([record for own in found for record in own.records]),
        state=gaps.state(every),
        codes=_codes(found),
        trouble=[line for own in every if (line := gaps.of(own, whys[0]))] if len(every) == 1 else [],
        coverage=gaps.coverage(every, whys),
    )


def write(report: Report, folder: Path) -> Path:
    """Everything into `folder`; each file whole or not at all. Returns the page. Raises StorageFull."""
    figures = [plot for part in report.parts for plot in part.plots]
    files: dict[str, bytes] = {f"figures/{plot.name}.svg": plot.svg for plot in figures}
    files |= {f"figures/{plot.name}.png": plot.png for plot in figures}
    files["report.html"] = _rendered("study.html.j2", report, escape=True).encode()
    files["report.md"] = _rendered("study.md.j2", report, escape=False).encode()
    for name, body in files.items():
        _put(folder / name, body)
    return folder / "report.html"


def write_tables(sections: Sequence[Section], out: Path, folder: Path, tasks: Path = TASKS) -> None:
    """cells.csv, effects.csv and repeats.csv."""
    found = [summary(section, Store(out / section.key).all()) for section in sections]
    _put(folder / "cells.csv", grids.cells_csv(found, tasks).encode())
    _put(folder / "effects.csv", grids.effects_csv(found, tasks).encode())
    _put(folder / "repeats.csv", grids.repeats_csv(found, tasks).encode())


def _check_together(section: Section, records: Mapping[str, CellRecord]) -> None:
    for record in records.values():
        first = next(iter(records.values()))
        if record.section.digest != section.digest:
            raise NotPossible(
                f"{section.key}: the study file was changed since cell {record.cell} was run: restore it, or "
                "run it anew with --fresh"
            )
        if record.versions.code != first.versions.code:
            raise NotPossible(
                f"{section.key}: cells {first.cell} and {record.cell} were run with different code and "
                "cannot stand side by side: run it anew with --fresh"
            )
    if other := other_code(repeat for record in records.values() for repeat in record.repeats):
        raise NotPossible(
            f"{section.key}: {other}; its repeats cannot stand side by side: run it anew with --fresh"
        )
    if any(len(hashes) > 1 for hashes in data_hashes(records.values()).values()):
        raise NotPossible(
            f"{section.key}: its repeats were run on different data (their content hashes differ): restore "
            "the data and run it anew with --fresh"
        )


# --- a section ----------------------------------------------------------------------------------------------


def _part(found: Summary, command: str, out: Path, tasks: Path) -> Part:
    told = dict.fromkeys(data.described(record.experiment, tasks) for record in found.records)
    described = [line for line in told if line]
    synthetic = _SYNTHETIC if any("SYNTHETIC" in line for line in described) else ""
    note = synthetic.rstrip(".")
    drawn = [curves.learning(found, note), *(plots.effect(found, factor, note) for factor in found.factors)]
    seen, unseen = pictures.of(found, out, tasks, note)
    drawn += seen
    title = f"Every cell: mean ± half the 95 % interval (n); times are of the {found.clock}"
    by_factor = [grids.of_factor(found, own) for factor in found.factors for own in strata(found, factor)]
    by_factor = [clocks.table(found), *by_factor]
    tables = [*(table for table in by_factor if table is not None), (title, grids.of_cells(found))]
    rows = [*found.rows, *found.baselines]
    first = found.study.seed(0)
    return Part(
        key=found.section.key,
        study=found.study,
        data=described,
        synthetic=synthetic,
        words=[*words.of_section(found), *filter(None, [unseen])],
        plots=[plot for plot in drawn if plot is not None],
        tables=tables,
        commands=[
            (row.cell.id, command.format(cell=f"{found.section.key}/{row.cell.id}", seed=first))
            for row in rows
        ],
        windows=[
            (f"{row.cell.id}, seed {repeat.seed}", repeat.grafana)
            for row in rows
            for repeat in row.finished
            if repeat.grafana
        ],
    )


# --- all of it ----------------------------------------------------------------------------------------------


def _environment(records: Sequence[CellRecord]) -> list[tuple[str, str]]:
    def all_of(values: Sequence[str]) -> str:
        return "; ".join(dict.fromkeys(values))

    gib = 2**30
    environments = [record.environment for record in records]
    repeats = [repeat for record in records for repeat in record.repeats]
    began, ended = min(r.began for r in repeats), max(r.ended for r in repeats)
    energy = any(repeat.joules is not None for repeat in repeats)
    busy = sum(repeat.ended - repeat.began for repeat in repeats)
    hashes = Counter(r.data_hash[:16] for r in repeats if r.data_hash)
    elsewhere = [record for record in records if not record.where.startswith("native")]
    own = " of `lab` alone" if elsewhere else ""
    return [
        (
            f"machine{own}",
            all_of([f"{e.cpu}, {e.cores} cores, {e.memory_bytes / gib:.0f} GiB" for e in environments]),
        ),
        (f"system{own}", all_of([e.platform for e in environments])),
        ("run", all_of([record.where for record in records])),
        (
            f"versions{own}",
            all_of(
                [
                    f"Python {e.python}, "
                    + ", ".join(f"{name} {version}" for name, version in e.packages.items())
                    for e in environments
                ]
            ),
        ),
        (
            f"code{own}",
            all_of([_commit(e) for e in environments])
            + ", sources "
            + all_of([record.versions.code[:16] for record in records]),
        ),
        *((name, all_of([text(record) for record in elsewhere])) for name, text in _THERE if elsewhere),
        ("data", "content hashes " + ", ".join(hashes)),
        (
            "when",
            f"{gaps.date(began)} to {gaps.date(ended)} UTC; {len(repeats)} runs, {clock(busy)} of running",
        ),
        ("energy", _MEASURED if energy else "not measured: no RAPL counters here, and no board's sensor"),
    ]


def _of_code(record: CellRecord) -> str:
    found = {f"{who} {code[:16]}" for r in record.repeats for who, codes in r.code.items() for code in codes}
    return ", ".join(sorted(found)) or "not told"


def _of_aggregator(record: CellRecord) -> str:
    told = {name: value for name, value in record.aggregator_environment.items() if name != "code"}
    return ", ".join(f"{name} {value}" for name, value in told.items()) or "not told"


_THERE = (("aggregator there", _of_aggregator), ("code there", _of_code))


def _codes(found: Sequence[Summary]) -> str:
    """Which parts are of which code, where it is not one; a part is of one (`_check_together`)."""
    parts: dict[str, list[Summary]] = {}
    for own in found:
        parts.setdefault(own.records[0].versions.code, []).append(own)
    told = [
        f"{', '.join(dict.fromkeys(_commit(own.records[0].environment, 7) for own in same))} "
        f"({', '.join(own.section.key for own in same)})"
        for same in parts.values()
    ]
    return f"Its parts are of different code: {'; '.join(told)}." if len(told) > 1 else ""


def _commit(environment: Machine, letters: int = 12) -> str:
    changed = " with uncommitted changes" if environment.git_dirty else ""
    return f"git {(environment.git_commit or 'unknown')[:letters]}{changed}"


# --- files --------------------------------------------------------------------------------------------------


def _rendered(template: str, report: Report, *, escape: bool) -> str:
    templates = Environment(
        loader=PackageLoader("lab", "study"),
        autoescape=escape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    templates.filters["inline"] = Markup
    templates.filters["cell"] = lambda text: str(text).replace("|", "\\|").replace("\n", " ")
    return templates.get_template(template).render(report=report, goal=_goal)


def _goal(study: Study) -> str:
    target = target_of(study)
    return "" if target is None else target_words(target)


def _put(path: Path, body: bytes) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(body)
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        kind = StorageFull if error.errno in NO_ROOM else InvalidSetting
        raise kind(f"{path}: cannot be written ({error.strerror})") from None
