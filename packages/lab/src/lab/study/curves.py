"""The learning curves of a study's report: over rounds, examples or time, beside training in one place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

from lab.charts import BLACK, GREY, STYLE
from lab.study.intervals import interval
from lab.study.measures import Target, clock, limits, metric_of, metric_words, plain, target_of
from lab.study.plots import COLOURS, LETTERS, LINES, MARKERS, TOGETHER, Plot, plotted
from lab.study.records import Repeat
from lab.study.schema import Factor, level_name
from lab.study.summary import Row, Summary

_FOR = "in one place, for "
_INSIDE = 5  # curves that a legend among them names; more it would hide
_FAR_APART = 20  # times as many rounds in the longest curve as in the shortest, which then could not be seen
_ROOM = 0.08  # of the height that the lines take, above and below them


def learning(summary: Summary, note: str = "") -> Plot | None:
    """The target's metric over rounds, or over examples where there is a baseline: mean and 95 % band.

    `note`: of the data, to stand in the figure.
    """
    target = target_of(summary.study)
    metric = plain(summary.study.target_metric)
    panels = _panels(summary)
    if not summary.learns or not any(_evaluated(row, metric) for _, rows in panels for row in rows):
        return None
    columns = min(len(panels), 2)
    lines = -(-len(panels) // columns)
    with matplotlib.rc_context(STYLE):
        named = max(len(rows) + len(_beside(summary, rows, metric)) for _, rows in panels)
        across = _across(summary, panels, metric)
        below = 0.19 * -(-named // across) if named > _INSIDE else 0.0  # inches, of a legend
        figure = Figure(figsize=(7.4, 0.5 + (3.1 + below) * lines), layout="constrained")
        grid = figure.subplots(lines, columns, squeeze=False, sharey=True)
        axis = _axis(summary)
        over = f"{_AXES[axis]} ({summary.clock})" if axis == "seconds" else _AXES[axis]
        for index, (title, rows) in enumerate(panels):
            axes = grid[index // columns][index % columns]
            _curves(axes, summary, rows, metric, target, axis, across if below else 0)
            axes.set_title(title, fontsize=10)
            axes.set_xlabel(over)
            if index % columns == 0:
                axes.set_ylabel("test accuracy, %" if metric == "accuracy" else metric_words(metric))
        for axes in grid.flat[len(panels) :]:
            axes.set_visible(False)
        _frame(list(grid.flat[: len(panels)]), axis)
        text = f"Learning curves of {summary.section.key}: {metric_words(metric)} over {over}"
        return plotted(figure, f"{summary.section.key}-learning", text, _read(axis, summary), note)


def _read(axis: str, summary: Summary) -> str:
    beside = "; in one place: at the round where as many examples had been seen"
    rows = [row for row in (*summary.rows, *summary.baselines) if row.finished]
    uneven = any(len({len(repeat.rounds) for repeat in row.finished}) > 1 for row in rows)
    return (
        "Lines: means; bands: 95 % intervals, as far as there is room"
        + beside * (axis == "rounds" and any(row.finished for row in summary.baselines))
        + "; runs that ended before others of their cell count on with their last value" * uneven
    )


_AXES = {"rounds": "round", "examples": "examples trained on, thousands", "seconds": "time, s"}


def _axis(summary: Summary) -> str:
    if summary.study.axis != "auto":
        return summary.study.axis
    return "examples" if summary.baselines else "rounds"


def _panels(summary: Summary) -> list[tuple[str, list[Row]]]:
    """All curves together where they are of one task and can be told apart, else a panel for each level of
    the factor that sets the task, or has the fewest levels."""
    tasks = next((factor for factor in summary.factors if _sets_task(summary, factor)), None)
    if tasks is None and len(summary.rows) <= TOGETHER and len(summary.factors) < 2:
        return [("", list(summary.rows))]
    if summary.study.design != "grid":
        return [(factor.label or factor.name, summary.compared(factor)) for factor in summary.factors]
    factor = tasks or min(summary.factors, key=lambda found: len(found.levels))
    return [
        (
            f"{factor.label or factor.name}: {name}",
            [r for r in summary.rows if r.cell.levels[factor.name] == name],
        )
        for name in map(level_name, factor.levels)
    ]


def _sets_task(summary: Summary, factor: Factor) -> bool:
    found = {(row.cell.levels[factor.name], row.cell.experiment.task) for row in summary.rows}
    return len({task for _, task in found}) > 1 and len(found) == len({level for level, _ in found})


def _frame(panels: Sequence[Any], axis: str) -> None:
    """Show all lines, bands (those of few repeats are wide) as far as there is room, and rounds on a scale
    that short curves can be seen on."""
    lines = [(axes, line) for axes in panels for line in axes.lines]
    heights = [value for _, line in lines for value in line.get_ydata()]
    room = _ROOM * (max(heights) - min(heights)) or 1.0
    panels[0].set_ylim(min(heights) - room, max(heights) + room)
    ends = [max(line.get_xdata()) for axes, line in lines if line.get_transform() is axes.transData]
    times = max(ends) / max(min(ends), 1)
    if axis == "rounds" and times >= _FAR_APART:
        for axes in panels:
            axes.set_xscale("log", nonpositive="mask")
            axes.xaxis.set_major_locator(LogLocator(subs=(1,) if times > 100 else (1, 2, 5)))
            axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
            axes.xaxis.set_minor_locator(NullLocator())


def _evaluated(row: Row, metric: str) -> bool:
    return any(metric_of(record, metric) is not None for repeat in row.finished for record in repeat.rounds)


def _curves(
    axes: Any,
    summary: Summary,
    rows: Sequence[Row],
    metric: str,
    target: Target | None,
    axis: str,
    across: int,
) -> None:
    """`across`: names side by side in a legend below; 0: among the curves."""
    scale = 100 if metric == "accuracy" else 1
    shared = _shared(rows)
    drawn = 0
    for index, row in enumerate(rows):
        if _evaluated(row, metric):
            _curve(axes, row, metric, axis, scale, index % TOGETHER, _label(row, shared))
            drawn += 1
    baselines = _beside(summary, rows, metric)
    for row in baselines:
        beside = [_label(found, shared) for found in rows if found.cell.id in row.cell.beside]
        label = "in one place" if len(baselines) == 1 else f"{_FOR}{beside[0]}"
        places = [at for at, found in enumerate(rows) if found.cell.id in row.cell.beside]
        colour = BLACK if len(baselines) == 1 else COLOURS[places[0] % TOGETHER]
        federated = next(found for found in rows if found.cell.id in row.cell.beside)
        length = federated.cell.experiment.rounds.count / row.cell.experiment.rounds.count
        _centralized(axes, row, metric, axis, scale, label, colour, length)
    for figure in summary.study.published:
        fits = any(row in rows or row in baselines for row in summary.beside(figure))
        if figure.curve is not None and axis == "rounds" and metric == "accuracy" and fits:
            numbers = range(1, len(figure.curve) + 1)
            values = [100 * value for value in figure.curve]
            axes.plot(
                numbers, values, color=BLACK, linestyle=":", marker="x", markersize=4, label=figure.source
            )
    if target is not None:
        axes.axhline(scale * target.value, color=GREY, linewidth=0.8, zorder=0)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=axis == "rounds"))
    if not drawn:
        axes.text(0.5, 0.5, "not run", transform=axes.transAxes, ha="center", va="center", color=GREY)
    elif drawn + len(baselines) > 1 or summary.study.published:
        below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.2), "ncols": across}
        axes.legend(fontsize=8, **(below if across else {"loc": "lower right"}))


def _across(summary: Summary, panels: Sequence[tuple[str, list[Row]]], metric: str) -> int:
    """How many names fit side by side in a legend below a panel."""
    if len(panels) == 1:
        return 2
    names = [
        len(_label(row, _shared(rows))) + len(_FOR) * (len(_beside(summary, rows, metric)) > 1)
        for _, rows in panels
        for row in rows
    ]
    return 2 if 2 * max(names, default=0) <= LETTERS else 1


def _beside(summary: Summary, rows: Sequence[Row], metric: str) -> list[Row]:
    """The baselines of these rows that have a curve."""
    own = {row.cell.id for row in rows}
    return [row for row in summary.baselines if own & set(row.cell.beside) and _evaluated(row, metric)]


def _shared(rows: Sequence[Row]) -> set[str]:
    """Factors that are the same in all rows: the panel's title says them."""
    names = rows[0].cell.levels if rows else {}
    return {name for name in names if len({row.cell.levels[name] for row in rows}) == 1 and len(rows) > 1}


def _label(row: Row, shared: set[str]) -> str:
    return ", ".join(told for name, told in row.told.items() if name not in shared) or "federated"


def _curve(axes: Any, row: Row, metric: str, axis: str, scale: float, index: int, label: str) -> None:
    x, mean, half = _band(row, metric, axis)
    colour = COLOURS[index]
    axes.plot(
        x,
        scale * mean,
        color=colour,
        linestyle=LINES[index],
        marker=MARKERS[index],
        markersize=3.5,
        markevery=max(len(x) // 8, 1),
        linewidth=1.6,
        label=label,
    )
    axes.fill_between(x, *_ends(mean, half, metric, scale), color=colour, alpha=0.15, linewidth=0)


def _centralized(
    axes: Any, row: Row, metric: str, axis: str, scale: float, label: str, colour: str, length: float
) -> None:
    """As a curve over examples, or over `length` rounds an epoch of it; over time, only where it ends.

    So it stands at each round where as many examples had been seen.
    """
    x, mean, half = _band(row, metric, axis)
    x = x * length if axis == "rounds" else x
    style: dict[str, Any] = {"color": colour, "linestyle": (0, (4, 2)), "linewidth": 1.8}
    if axis == "seconds":
        axes.axhline(scale * mean[-1], **style, label=f"{label}, in the end")
        return
    axes.plot(x, scale * mean, **style, label=label)
    axes.fill_between(x, *_ends(mean, half, metric, scale), color=colour, alpha=0.10, linewidth=0)


def _ends(mean: Any, half: Any, metric: str, scale: float) -> tuple[Any, Any]:
    """Of the band: as far as the metric's values can lie."""
    return scale * np.clip(mean - half, *limits(metric)), scale * np.clip(mean + half, *limits(metric))


def _band(row: Row, metric: str, axis: str) -> tuple[Any, Any, Any]:
    """x, mean and half the interval at each round that every repeat has evaluated: [points] each.

    Repeats that stopped early keep the value they stopped with.
    """
    epochs = row.cell.experiment.training.epochs
    curves = [dict(_points(repeat, metric, axis, epochs)) for repeat in row.finished]
    curves = [curve for curve in curves if curve]
    rounds = sorted(set().union(*curves))
    x, mean, half = [], [], []
    for number in rounds:
        points = [
            curve[max(known for known in curve if known <= number)]
            for curve in curves
            if min(curve) <= number
        ]
        found = interval([value for _, value in points])
        there = [curve[number][0] for curve in curves if number in curve]
        x.append(float(np.mean(there)))
        mean.append(found.mean)
        half.append(found.half or 0.0)
    order = np.argsort(x)
    return np.array(x)[order], np.array(mean)[order], np.array(half)[order]


def _points(repeat: Repeat, metric: str, axis: str, epochs: int) -> list[tuple[int, tuple[float, float]]]:
    """(round, (x, value)) of each evaluated round."""
    found, total = [], 0.0
    for record in repeat.rounds:
        if axis == "rounds":
            total = float(record.round)
        elif axis == "examples":
            total += record.num_examples * epochs / 1000
        else:
            total += clock(record)
        value = metric_of(record, metric)
        if value is not None:
            found.append((record.round, (total, value)))
    return found
