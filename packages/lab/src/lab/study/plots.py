"""The figures of a study's report: here each factor against its outcomes; learning curves are in `curves`.

Okabe and Ito's colours, each with a marker and a line of its own, so that grey prints and every reader can
tell them apart. A figure is drawn once and kept as SVG (inline and as a file) and as PNG.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from textwrap import fill
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from lab.charts import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, STYLE, VERMILION, svg
from lab.study.intervals import Interval
from lab.study.measures import Measure
from lab.study.schema import Factor, is_number, level_name
from lab.study.summary import Row, Summary

COLOURS = (BLUE, ORANGE, GREEN, VERMILION, SKY, PURPLE, "#005A8C", "#8a6d00")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (8, 2)))
TOGETHER = len(COLOURS)  # curves in one panel
_PAD = 0.08
LETTERS = 42  # that have room side by side below half a figure


@dataclass(frozen=True)
class Plot:
    """`name` is its file's; `text` says what is seen, `legend` how to read it.

    `left_out`: what there was no room for, a sentence.
    """

    name: str
    text: str
    legend: str
    inline: str  # an <svg> element
    svg: bytes
    png: bytes
    left_out: str = ""


def effect(summary: Summary, factor: Factor, note: str = "") -> Plot | None:
    """Each outcome over the factor's levels: every repeat as a point, the mean and its 95 % interval.

    `note`: of the data, to stand in the figure.
    """
    outcomes = [m for m in summary.outcomes if any(any(row.of(m).values) for row in summary.rows)]
    there = {row.cell.levels[factor.name] for row in summary.compared(factor) if row.finished}
    if not outcomes or len(there) < 2:
        return None
    columns = min(len(outcomes), 2)
    lines = -(-len(outcomes) // columns)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.4 if columns > 1 else 5.6, 0.5 + 2.8 * lines), layout="constrained")
        grid = figure.subplots(lines, columns, squeeze=False)
        for index, measure in enumerate(outcomes):
            axes = grid[index // columns][index % columns]
            series = _levels(axes, summary, factor, measure)
            if index == 0 and series > 1:
                handles, labels = axes.get_legend_handles_labels()
                figure.legend(
                    handles,
                    labels,
                    loc="outside lower center",
                    ncols=min(series, 4 if sum(map(len, labels)) < LETTERS - 10 else 2),
                    title=_others(summary, factor),
                    title_fontsize=9,
                )
        for axes in grid.flat[len(outcomes) :]:
            axes.set_visible(False)
        names = ", ".join(measure.label for measure in outcomes)
        drawn = plotted(
            figure,
            f"{summary.section.key}-by-{factor.name}",  # no factor's name makes it that of another figure
            f"{names} over {factor.label or factor.name}",
            _read(summary, factor, outcomes),
            note,
        )
    missing = [label for label, _ in _series(summary, factor)[TOGETHER:]]
    nothing = [
        m.label for m in summary.outcomes if m not in outcomes and any(r.of(m).n for r in summary.rows)
    ]
    said = [f"In the table alone: {'; '.join(missing)}."] * bool(missing)
    said += [f"0 in every run: {', '.join(nothing)}."] * bool(nothing)
    return replace(drawn, left_out=" ".join(said))


def _read(summary: Summary, factor: Factor, outcomes: Sequence[Measure]) -> str:
    seeds = len(summary.factors) == 1 or summary.study.design != "grid"
    said = f"Dots: single runs{', thin lines those of one seed' * seeds}; bars: 95 % intervals"
    every = [row.of(measure) for row in summary.compared(factor) for measure in outcomes]
    if any(value.n and not value.whole for value in every):
        said += "; hollow: the mean of those repeats alone that got there"
    return said


def _levels(axes: Any, summary: Summary, factor: Factor, measure: Measure) -> int:
    """Draws one series for each combination of the other factors; how many there are."""
    names = [level_name(level) for level in factor.levels]
    numeric = factor.scale != "even"
    places = [float(name) for name in names] if numeric else [float(at) for at in range(len(names))]
    series = _series(summary, factor)
    for index, (label, rows) in enumerate(series[:TOGETHER]):
        shift = 0.0 if numeric else (index - (len(series[:TOGETHER]) - 1) / 2) * _PAD
        at = {row.cell.levels[factor.name]: row.of(measure) for row in rows}
        points = [(place + shift, at[name]) for place, name in zip(places, names, strict=True) if name in at]
        joined = numeric and all(is_number(level) for level in factor.levels)  # else nothing lies between
        _series_of(axes, points, measure, index, label, joined)
    if len(series) == 1:
        _seeds(axes, dict(zip(names, places, strict=True)), series[0][1], factor, measure)
        _references(axes, summary, dict(zip(names, places, strict=True)), series[0][1], factor, measure)
    _reference(axes, summary, measure)
    if numeric:
        if factor.scale == "log":
            axes.set_xscale("log")
        axes.set_xticks(places, names)
        axes.minorticks_off()
    else:
        aslant = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"}  # each ends at its own mark
        beside = max(map(len, names)) <= 9 and sum(map(len, names)) <= LETTERS - 10
        axes.set_xticks(places, [fill(name, 20) for name in names], **({} if beside else aslant))
        axes.set_xlim(-0.5, len(names) - 0.5)
        axes.grid(axis="x", visible=False)
    axes.set_xlabel(factor.label or factor.name)
    told = f"{measure.label}{', ' + measure.unit if measure.unit else ''}"
    axes.set_ylabel(told.replace(" (", "\n(") if len(told) > 24 else told)  # a panel is not higher
    if measure.better <= 0:
        axes.set_ylim(bottom=0)
    return len(series)


def _seeds(
    axes: Any, places: Mapping[str, float], rows: Sequence[Row], factor: Factor, measure: Measure
) -> None:
    """A thin line through the runs of each seed, which are what levels are compared by.

    Broken where a run has no value, as where it did not reach the target.
    """
    runs: dict[int, list[tuple[float, float]]] = {}
    for row in rows:
        for seed, value in row.by_seed(measure).items():
            there = np.nan if value is None else value
            runs.setdefault(seed, []).append((places[row.cell.levels[factor.name]], there))
    for points in runs.values():
        x, y = zip(*points, strict=True)
        axes.plot(x, y, color=GREY, linewidth=0.7, alpha=0.6, zorder=1)


def _references(
    axes: Any,
    summary: Summary,
    places: Mapping[str, float],
    rows: Sequence[Row],
    factor: Factor,
    measure: Measure,
) -> None:
    """Training in one place beside each level, where each has its own."""
    if measure.better <= 0 or len(summary.baselines) < 2:
        return
    points = [
        (places[row.cell.levels[factor.name]], mean)
        for row in rows
        if (baseline := summary.baseline_of(row)) is not None
        if (mean := baseline.of(measure).mean) is not None
    ]
    if points:
        style = {"color": BLACK, "marker": "_", "markersize": 16, "linestyle": "", "label": "in one place"}
        (drawn,) = axes.plot(*zip(*points, strict=True), **style)
        axes.legend(handles=[drawn], fontsize=8)


def _others(summary: Summary, factor: Factor) -> str:
    return ", ".join(other.label or other.name for other in summary.factors if other is not factor)


def _series(summary: Summary, factor: Factor) -> list[tuple[str, list[Row]]]:
    found: dict[str, list[Row]] = {}
    for row in summary.compared(factor):
        others = [row.cell.levels[name] for name in row.told if name != factor.name]
        found.setdefault(", ".join(others) if summary.study.design == "grid" else "", []).append(row)
    return list(found.items())


def _series_of(
    axes: Any,
    points: Sequence[tuple[float, Interval]],
    measure: Measure,
    index: int,
    label: str,
    joined: bool,
) -> None:
    colour, marker = COLOURS[index], MARKERS[index]
    there = [(place, value) for place, value in points if value.mean is not None]
    if not there:
        return
    x = [place for place, _ in there]
    means = [(value.mean or 0.0) if value.whole else np.nan for _, value in there]
    below, above = [], []
    for mean, (_, value) in zip(means, there, strict=True):  # one run has no interval
        below.append(np.nan if value.low is None else max(mean - measure.possible(value.low), 0.0))
        above.append(np.nan if value.high is None else max(measure.possible(value.high) - mean, 0.0))
    axes.errorbar(
        x,
        means,
        yerr=[below, above],
        color=colour,
        marker=marker,
        markersize=6,
        linestyle=LINES[index] if joined else "",
        linewidth=1.0,
        elinewidth=1.4,
        capsize=4,
        label=label,
        clip_on=False,  # or half of what is at 0 would be missing
    )
    for place, value in there:
        if not value.whole:  # those that reached the target: hollow, and no line leads there
            style = {"color": colour, "marker": marker, "markersize": 6, "markerfacecolor": "white"}
            axes.plot([place], [value.mean], linestyle="", clip_on=False, **style)
        axes.plot(
            [place] * value.n, value.values, linestyle="", marker=".", color=colour, alpha=0.45, markersize=5
        )


def _reference(axes: Any, summary: Summary, measure: Measure) -> None:
    """Training in one place as a dashed line, where it is one figure for all."""
    if measure.better <= 0 or len(summary.baselines) != 1:
        return
    value = summary.baselines[0].of(measure)
    if value.mean is not None:
        axes.axhline(value.mean, color=BLACK, linestyle=(0, (4, 2)), linewidth=1.2, zorder=1)
        axes.annotate(
            "in one place",
            (1, value.mean),
            xycoords=("axes fraction", "data"),
            xytext=(-2, 3),
            textcoords="offset points",
            ha="right",
            fontsize=8,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.8},
        )


def plotted(figure: Figure, name: str, text: str, legend: str, note: str = "") -> Plot:
    """`note` stands in the figure itself, so that it goes wherever a copy of it goes."""
    if note:
        figure.suptitle(note, x=0.995, ha="right", fontsize=8, color=BLACK)
    inline = svg(figure, name)
    whole, png = io.BytesIO(), io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": name}):
        figure.savefig(whole, format="svg", metadata={"Date": None, "Creator": None})
    figure.savefig(png, format="png", dpi=150)
    return Plot(name, text, legend, inline, whole.getvalue(), png.getvalue())
