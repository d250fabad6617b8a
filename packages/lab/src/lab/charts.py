"""The figures of a report as inline SVG, and of `lab partition --plot` as a file.

Okabe and Ito's colours, which everyone tells apart; hatching or line style repeats what colour says, so that
a page printed in grey still reads. Figures are drawn without pyplot: nothing global, no display.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from roundtable.errors import InvalidSetting
from roundtable.messages import RoundRecord

from lab.results import Spread

BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
SKY, PURPLE, YELLOW, BLACK, GREY = "#56B4E9", "#CC79A7", "#F0E442", "#222222", "#999999"
WHEEL = (BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILION, YELLOW, BLACK, GREY, "#005A8C")
DARK = (BLUE, GREEN, VERMILION, BLACK, WHEEL[9])
HATCHES = ("", "///", "", "\\\\\\")
MB = 1_000_000
BARS_UP_TO = 40  # clients; beyond that a heat map

STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.edgecolor": "#444444",
    "axes.labelcolor": "#222222",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "hatch.linewidth": 0.6,
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text: small, searchable, in the page's own font
}


def learning_curve(rounds: Sequence[RoundRecord]) -> str:
    """Accuracy and loss on the test set over rounds, one above the other."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 4.4), layout="constrained")
        top, bottom = figure.subplots(2, 1, sharex=True)
        scored = [record for record in rounds if record.accuracy is not None]
        top.plot(
            _numbers(scored),
            [100 * (record.accuracy or 0.0) for record in scored],
            color=BLUE,
            marker="o",
            markersize=3,
        )
        top.set_ylabel("test accuracy, %")
        lost = [record for record in rounds if record.loss is not None]
        bottom.plot(
            _numbers(lost),
            [record.loss or 0.0 for record in lost],
            color=ORANGE,
            marker="s",
            markersize=3,
            label="test",
        )
        trained = [record for record in rounds if record.train_loss is not None]
        if trained:
            losses = [record.train_loss or 0.0 for record in trained]
            bottom.plot(_numbers(trained), losses, color=GREY, linestyle="--", label="clients, in training")
            bottom.legend()
        bottom.set_ylabel("loss")
        rounds_axis(bottom)
        return svg(figure, "learning")


def virtual_time(rounds: Sequence[RoundRecord]) -> str:
    """Accuracy on the test set over virtual seconds."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 2.8), layout="constrained")
        axes = figure.subplots()
        ends = np.cumsum([record.virtual_seconds or 0.0 for record in rounds])
        scored = [
            (end, 100 * record.accuracy)
            for end, record in zip(ends, rounds, strict=True)
            if record.accuracy is not None
        ]
        axes.plot([end for end, _ in scored], [value for _, value in scored], BLUE, marker="o", markersize=3)
        axes.set_xlim(left=0)
        axes.set_ylabel("test accuracy, %")
        axes.set_xlabel("virtual seconds")
        return svg(figure, "virtual")


def phases(rounds: Sequence[RoundRecord]) -> str:
    """Seconds a round, stacked by phase; what no phase claims is `other`."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 2.8), layout="constrained")
        axes = figure.subplots()
        parts = phase_table(rounds)
        _stack(axes, [record.round for record in rounds], list(parts.items()))
        axes.set_ylabel("seconds")
        axes.legend(ncols=len(parts), loc="lower right", bbox_to_anchor=(1, 1))
        rounds_axis(axes)
        return svg(figure, "phases")


def phase_table(rounds: Sequence[RoundRecord]) -> dict[str, list[float]]:
    """Seconds by phase name, one value a round."""
    names = list(dict.fromkeys(name for record in rounds for name in record.phases))
    table = {name: [record.phases.get(name, 0.0) for record in rounds] for name in names}
    other = [max(record.seconds - sum(record.phases.values()), 0.0) for record in rounds]
    if not names or sum(other) > 0.005 * sum(record.seconds for record in rounds):
        table["other"] = other
    return table


def traffic(rounds: Sequence[RoundRecord]) -> str:
    """Megabytes a round, up and down."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 2.6), layout="constrained")
        axes = figure.subplots()
        numbers = [record.round for record in rounds]
        axes.plot(
            numbers,
            [record.bytes_up / MB for record in rounds],
            color=BLUE,
            marker="^",
            markersize=4,
            label="up (updates)",
        )
        down = [record.bytes_down / MB for record in rounds]
        axes.plot(
            numbers, down, color=ORANGE, marker="v", markersize=4, linestyle="--", label="down (weights)"
        )
        axes.set_ylim(bottom=0)
        axes.set_ylabel("MB")
        axes.legend(ncols=2, loc="lower right", bbox_to_anchor=(1, 1))
        rounds_axis(axes)
        return svg(figure, "traffic")


def partition(spread: Spread) -> str:
    with matplotlib.rc_context(STYLE):
        return svg(partition_figure(spread), "partition")


def save_partition(spread: Spread, path: Path, title: str) -> None:
    """PNG, SVG or PDF, by the path's ending. Raises InvalidSetting."""
    with matplotlib.rc_context(STYLE | {"svg.fonttype": "path"}):
        figure = partition_figure(spread)
        figure.suptitle(title, fontsize=11)
        try:
            figure.savefig(path, dpi=150)
        except OSError as error:
            raise InvalidSetting(f"--plot {path}: {error.strerror or error}") from None


def partition_figure(spread: Spread) -> Figure:
    """Clients × labels: stacked bars while bars can be told apart, a heat map beyond."""
    counts = np.asarray(spread.counts, dtype=np.int64)  # (clients, labels)
    clients, labels = counts.shape
    if clients <= BARS_UP_TO and labels <= len(WHEEL):
        figure = Figure(figsize=(7.2, 1.4 + 0.2 * max(clients, 6)), layout="constrained")
        axes = figure.subplots()
        left = np.zeros(clients)
        widest = counts.sum(axis=1).max()
        for index, label in enumerate(spread.labels):
            share, colour = counts[:, index], WHEEL[index]
            bars = axes.barh(
                np.arange(clients), share, left=left, color=colour, edgecolor="white", label=label
            )
            if len(label) <= 2:  # said in the bar too, for those who print in grey
                names = [label if value > widest * 0.03 else "" for value in share]
                ink = "white" if colour in DARK else BLACK
                axes.bar_label(bars, names, label_type="center", color=ink, fontsize=8)
            left += share
        axes.set_yticks(np.arange(clients))
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("examples")
        axes.set_ylabel("client")
        axes.legend(
            ncols=min(labels, 10),
            loc="lower center",
            bbox_to_anchor=(0.5, 1),
            columnspacing=1,
            handlelength=1.4,
        )
        return figure
    figure = Figure(figsize=(7.2, min(max(2.6, 1.2 + 0.06 * clients), 8)), layout="constrained")
    axes = figure.subplots()
    blues = LinearSegmentedColormap.from_list("lab", ["#ffffff", SKY, BLUE, "#00304d"])
    image = axes.imshow(counts, aspect="auto", cmap=blues, interpolation="nearest", vmin=0)
    axes.set_xticks(np.arange(labels), spread.labels)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(visible=False)
    axes.set_xlabel("label")
    axes.set_ylabel("client")
    figure.colorbar(image, ax=axes, label="examples")
    return figure


def _stack(axes: Any, numbers: list[int], parts: list[tuple[str, list[float]]]) -> None:
    bottom = np.zeros(len(numbers))
    for index, (name, values) in enumerate(parts):
        colour, hatch = WHEEL[index % len(WHEEL)], HATCHES[index % len(HATCHES)]
        axes.bar(
            numbers,
            values,
            bottom=bottom,
            color=colour,
            hatch=hatch,
            edgecolor="white",
            linewidth=0.3,
            label=name,
        )
        bottom += np.asarray(values)
    axes.grid(axis="x", visible=False)


def _numbers(rounds: Sequence[RoundRecord]) -> list[int]:
    return [record.round for record in rounds]


def rounds_axis(axes: Any) -> None:
    axes.set_xlabel("round")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))  # one, where there is one round


def svg(figure: Figure, name: str) -> str:
    """The bare `<svg>` element, its ids made unique on a page by `name`."""
    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name, "svg.id": name}):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    body = text.getvalue()
    body = body[body.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    return re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{name}-", body)
