"""A study's figures as tables: for the report, and as CSV.

Text only: what a cell of a table says is decided here, how it looks in the templates.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from roundtable.experiment import Experiment

from lab.data import described
from lab.study.effects import Effect, Stratum, effects, effects_of
from lab.study.intervals import Interval
from lab.study.measures import Measure, Target, measures, named, number, target_of
from lab.study.schema import level_name
from lab.study.summary import Row, Summary


@dataclass(frozen=True)
class Table:
    """`head` and `rows` as text; `note` below it."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: int = 1  # columns of words, before those of figures
    note: str = ""


def of_cells(found: Summary) -> Table:
    factors = found.factors
    anything_failed = any(row.failed for row in (*found.rows, *found.baselines))
    shares = [found.learned] if found.learned is not None else []
    head = [factor.label or factor.name for factor in factors] or ["cell"]
    head += [_heading(measure) for measure in found.columns]
    head += ["% of centralized"] * len(shares) + ["failed"] * anything_failed
    rows = []
    for row in (*found.rows, *found.baselines):
        name = [row.cell.levels[factor.name] for factor in factors] if row.cell.levels else [found.title(row)]
        name += [""] * (max(len(factors), 1) - len(name))
        body = [_told(measure, row.of(measure), row) for measure in found.columns]
        body += [_share(found, row, measure) for measure in shares]
        rows.append((*name, *body, *([str(len(row.failed) or "")] * anything_failed)))
    return Table(tuple(head), tuple(rows), max(len(factors), 1), _counted(found, found.columns))


def of_factor(found: Summary, stratum: Stratum) -> tuple[str, Table] | None:
    """Its title, and a line a level: each outcome, and its difference from the factor's first level."""
    factor, names = stratum.factor, stratum.levels
    first = level_name(factor.levels[0])
    measures = [m for m in found.outcomes if any(stratum.level(name, m).n for name in names)]
    measures = [m for m in measures if factor is not found.of_clocks or not m.clocked]  # see `clocks`
    if len(names) < 2 or first not in names or not measures:
        return None
    label = factor.label or factor.name
    against = {(e.level, m.name): e for m in measures for e in effects_of(found, stratum, m)}
    rows = []
    for name in names:
        cells = [name]
        for measure in measures:
            value = stratum.level(name, measure)
            cells += [_amount(measure, value), _against(against.get((name, measure.name)))]
        rows.append(tuple(cells))
    head = [label, *(text for m in measures for text in (_heading(m), f"against {first}"))]
    where = f", {stratum.name}" if stratum.name else ""
    over = ", averaged over the other factors" if stratum.averaged else ""
    title = f"By {label}{where}{over}: mean ± half the 95 % interval (n)"
    told = f"{title}, and seed by seed the difference from {first}; * where it is shown"
    return told, Table(tuple(head), tuple(rows), 1, _counted(found, measures))


def _counted(found: Summary, columns: Sequence[Measure]) -> str:
    """What bytes and CPU time leave out, where there are such columns and it was left out here."""
    every = [repeat for row in found.rows for repeat in row.finished]
    cut = any(record.cut for repeat in every for record in repeat.rounds)
    workers = {r.workers for r in every if 0 < r.workers < max(x.clients for x in r.rounds)}
    moved, busy = (any(m.moved for m in columns), any(m.name.startswith("cpu_") for m in columns))
    what = " and ".join(["bytes sent up"] * moved + ["CPU time"] * busy)
    said = [f"{what[:1].upper()}{what[1:]} are of updates that were accepted, not of clients cut off."]
    said *= bool(what) and cut
    if moved and workers:
        numbers = " or ".join(map(str, sorted(workers)))
        processes = "worker process" if numbers == "1" else "worker processes"
        said.append(
            f"Bytes sent down are what {numbers} {processes} fetched, a round's weights once for all clients "
            "of one; a machine for each would fetch more."
        )
    return " ".join(said)


def _against(effect: Effect | None) -> str:
    """+0.57 ± 0.45 (3) *."""
    if effect is None or (mean := effect.difference.mean) is None:
        return "–"
    half = effect.difference.half
    told = effect.measure.shown(mean, unit=False)
    told = f"+{told}" if told.strip("0.−") and mean > 0 else told
    spread = "" if half is None else f" ± {effect.measure.shown(half, unit=False)}"
    star = " *" if effect.verdict == "difference" else ""
    return f"{told}{spread} ({effect.difference.each.n}){star}"


def _heading(measure: Measure) -> str:
    return f"{measure.label}, {measure.unit}" if measure.unit else measure.label


def _told(measure: Measure, value: Interval, row: Row) -> str:
    """93.87 ± 1.77 (3)."""
    return "not run" if row.record is None else _amount(measure, value)


def _amount(measure: Measure, value: Interval) -> str:
    if value.mean is None:
        reaching = value.asked and measure.target
        return f"not in {value.asked}" if reaching else "–"
    half = "" if value.half is None else f" ± {measure.shown(value.half, unit=False)}"
    count = f"{value.n}" if value.n == value.asked else f"{value.n} of {value.asked}"
    return f"{measure.shown(value.mean, unit=False)}{half} ({count})"


def _share(found: Summary, row: Row, measure: Measure) -> str:
    share = found.share_of_centralized(row, measure)
    if share is None or share.mean is None:
        return "100" if row.cell.kind == "centralized" and row.of(measure).n else "–"
    count = "" if share.whole else f" ({share.n} of {share.asked})"
    return number(share.mean, 1) + ("" if share.half is None else f" ± {number(share.half, 1)}") + count


def of_effects(table: Mapping[str, list[Effect]]) -> Table | None:
    rows = []
    for outcome, found in table.items():
        for effect in found:
            measure, difference = effect.measure, effect.difference
            half = "" if difference.half is None else f" ± {measure.shown(difference.half, unit=False)}"
            where = f", {effect.stratum.name}" if effect.stratum.name else ""
            average = ", on average" * (effect.verdict == "difference" and bool(effect.uneven))
            rows.append(
                (
                    outcome,
                    f"{effect.study}: {effect.factor_name}{where}",
                    f"{effect.reference} → {effect.level}",
                    effect.verdict + average,
                    f"{measure.shown(difference.mean, unit=False)}{half} {_points(measure)}".rstrip(),
                    str(difference.each.n),
                    _g(difference.g),
                )
            )
    if not rows:
        return None
    head = (
        "outcome",
        "factor",
        "largest change",
        "verdict",
        "effect ± half its 95 % interval",
        "n",
        "Hedges' g",
    )
    return Table(head, tuple(rows), 4)


def _g(value: float | None) -> str:
    """Where seeds hardly differ any difference is huge in their standard deviations."""
    if value is None:
        return "–"
    return f"{value:+.1f}".replace("-", "−") if abs(value) < 100 else "> 100" if value > 0 else "< −100"


def _points(measure: Measure) -> str:
    return "points" if measure.unit == "%" else measure.unit


def of_published(found: Sequence[Summary]) -> Table | None:
    rows = []
    for own in found:
        for compared in own.comparisons():
            figure, measure = compared.figure, compared.measure
            assert figure.value is not None
            scale = measure.scale if measure.unit == "%" else 1.0
            told = measure.shown(figure.value * scale, unit=False)
            if figure.high is not None:
                told += f" to {measure.shown(figure.high * scale, unit=False)}"
            what = f"{_heading(measure)}, {compared.row.name}"
            note = f"{figure.source}{'; ' + figure.note if figure.note else ''}"
            rows.append((own.section.key, what, told, _told(measure, compared.ours, compared.row), note))
        for figure in own.study.published:
            if figure.curve is not None:
                told = " ".join(f"{100 * value:.1f}" for value in figure.curve)
                for row in own.beside(figure):
                    what = f"test accuracy by round, %, {row.name}"
                    rows.append((own.section.key, what, told, _curve(row), figure.source))
    if not rows:
        return None
    return Table(("study", "figure", "published", "ours", "source"), tuple(rows), 5)


def _curve(row: Row) -> str:
    """Mean accuracy after each round."""
    repeats = row.finished
    if not repeats:
        return "not run"
    length = min(len(repeat.rounds) for repeat in repeats)
    means = []
    for index in range(length):
        values = [repeat.rounds[index].accuracy for repeat in repeats]
        known = [value for value in values if value is not None]
        means.append(f"{100 * sum(known) / len(known):.1f}" if known else "–")
    return " ".join(means) + f" (mean of {len(repeats)})"


def cells_csv(found: Sequence[Summary], tasks: Path) -> str:
    """`data` is what the task says of its data set, such as that it is synthetic."""
    head = "study cell kind levels measure unit target clock mean low high n finished failed data"
    lines = []
    for own in found:
        for row in (*own.rows, *own.baselines):
            levels = "; ".join(f"{name}={level}" for name, level in row.cell.levels.items())
            about = described(row.cell.experiment, tasks)
            for measure in _every(own).values():
                value = row.of(measure)
                cell = [own.section.key, row.cell.id, row.cell.kind, levels, measure.name, measure.unit]
                cell += [_target(measure.target), _clock(measure, row.cell.experiment)]
                figures = map(_raw, (value.mean, value.low, value.high))
                lines.append([*cell, *figures, value.n, len(row.finished), len(row.failed), about])
    return _csv(head.split(), lines)


def effects_csv(found: Sequence[Summary], tasks: Path) -> str:
    """Every comparison. `p` is of the paired t test, `p_holm` with the factor's other levels allowed for.

    `where`: at which levels of other factors, where not over all. `clock`: of both, or "real, virtual".
    """
    head = "study factor task where outcome unit target clock reference level n difference low high p p_holm"
    lines = []
    for own in found:
        for effect in effects(own):
            measure, of = effect.measure, effect.difference
            rows = effect.stratum.at(effect.reference, effect.level)
            clocks = dict.fromkeys(_clock(measure, row.cell.experiment) for row in rows)
            what = [own.section.key, effect.factor.name, effect.stratum.task, effect.stratum.name]
            what += [measure.name, measure.unit, _target(measure.target), ", ".join(clocks)]
            what += [effect.reference, effect.level]
            figures = map(_raw, (of.mean, of.low, of.high, of.p, effect.adjusted))
            about = dict.fromkeys(described(row.cell.experiment, tasks) for row in rows)
            lines.append([*what, of.each.n, *figures, effect.verdict, "; ".join(filter(None, about))])
    return _csv([*head.split(), "verdict", "data"], lines)


def _every(found: Summary) -> Mapping[str, Measure]:
    """By name: what is known of any run, and each metric that its runs told."""
    rounds = [record for own in found.records for repeat in own.repeats for record in repeat.rounds]
    told = {f"metrics.{name}" for record in rounds for name in record.metrics}
    told |= {f"federated.{name}" for record in rounds for name in record.federated}
    own = (named(name, found.study) for name in (*found.study.outcomes, *sorted(told)))
    return {**measures(found.study), **{measure.name: measure for measure in own}}


def _target(of: Target | None) -> str:
    return "" if of is None else f"{of.metric} {of.value:g}"


def _clock(measure: Measure, experiment: Experiment) -> str:
    """Which clock a time is of; nothing for what is not a time of either."""
    if measure.clocked:
        return experiment.machines.clock
    return "real" if measure.name == "round_seconds" else ""


def repeats_csv(found: Sequence[Summary], tasks: Path) -> str:
    """`clock` is that of `seconds`, `round_clock` and `seconds_to_target`; `round_seconds` are real ones."""
    every = [_every(own) for own in found]
    names = list(dict.fromkeys(name for known in every for name in known))
    lines = []
    for own, known in zip(found, every, strict=True):
        target = _target(target_of(own.study))
        for record in own.records:
            clock, about = record.experiment.machines.clock, described(record.experiment, tasks)
            for repeat in record.repeats:
                values = [_raw(known[name].of(repeat) if name in known else None) for name in names]
                told = [repeat.seed, repeat.state, repeat.reason or "", repeat.run or "", clock, target]
                lines.append([own.section.key, record.cell, *told, *values, repeat.weights_hash or "", about])
    first = ["study", "cell", "seed", "state", "reason", "run", "clock", "target"]
    return _csv([*first, *names, "weights_hash", "data"], lines)


def _csv(head: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([head, *lines])
    return text.getvalue()


def _raw(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
