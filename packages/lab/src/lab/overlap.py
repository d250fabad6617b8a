"""Intersection over union in a report, for tasks whose metrics have a confusion matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
from matplotlib.figure import Figure
from roundtable.messages import RoundRecord

from lab import charts

MARKERS = "osv^D*"


def measured(rounds: Sequence[RoundRecord]) -> bool:
    return any("mean_iou" in record.metrics for record in rounds)


def by_class(metrics: Mapping[str, float], names: Sequence[str]) -> list[tuple[str, float]]:
    """(class, its IoU), in the order of classes; those that neither truth nor prediction has are left out."""
    labels = sorted(int(name[4:]) for name in metrics if name[:4] == "iou_" and name[4:].isdigit())
    return [(names[label] if label < len(names) else str(label), metrics[f"iou_{label}"]) for label in labels]


def curve(rounds: Sequence[RoundRecord], names: Sequence[str]) -> str:
    """The mean over classes, and each class, over rounds."""
    scored = [record for record in rounds if "mean_iou" in record.metrics]
    numbers = [record.round for record in scored]
    with matplotlib.rc_context(charts.STYLE):
        figure = Figure(figsize=(7.2, 3.4), layout="constrained")
        axes = figure.subplots()
        means = [100 * record.metrics["mean_iou"] for record in scored]
        axes.plot(numbers, means, color=charts.BLACK, linewidth=2.2, label="mean")
        for at, (name, _) in enumerate(by_class(scored[-1].metrics, names)):
            found = [dict(by_class(record.metrics, names)).get(name) for record in scored]
            values = [float("nan") if value is None else 100 * value for value in found]
            axes.plot(
                numbers,
                values,
                color=charts.WHEEL[at % len(charts.WHEEL)],
                marker=MARKERS[at % len(MARKERS)],
                markersize=4,
                linewidth=1,
                label=name,
            )
        axes.set_ylim(0, 100)
        axes.set_ylabel("intersection over union, %")
        axes.legend(
            ncols=5, loc="lower left", bbox_to_anchor=(0, 1), columnspacing=1, handlelength=1.4, fontsize=9
        )
        charts.rounds_axis(axes)
        return charts.svg(figure, "overlap")
