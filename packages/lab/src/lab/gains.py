"""Personalisation in a report: each client's held-out examples before and after its own local training."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from roundtable.messages import RoundRecord

from lab import charts


def last(rounds: Sequence[RoundRecord]) -> RoundRecord | None:
    """The last round whose clients told their accuracy, if any did."""
    for record in reversed(rounds):
        if record.personalized is not None and "accuracy" in record.personalized.before:
            return record
    return None


def figure(record: RoundRecord) -> str:
    """Accuracy of each client, from what the global weights have to what its own have, a row a client."""
    told = {client: gain for client, gain in record.gains.items() if "accuracy" in gain.before}
    rows = np.arange(len(told))
    before = np.array([100 * gain.before["accuracy"] for gain in told.values()])
    after = np.array([100 * gain.after["accuracy"] for gain in told.values()])
    with matplotlib.rc_context(charts.STYLE):
        drawing = Figure(figsize=(7.2, min(1.3 + 0.22 * max(len(told), 4), 9)), layout="constrained")
        axes = drawing.subplots()
        axes.hlines(rows, before, after, color=charts.GREY, linewidth=2)
        axes.plot(
            before, rows, "o", color=charts.BLUE, markerfacecolor="white", label="before: the global weights"
        )
        axes.plot(after, rows, "D", color=charts.VERMILION, markersize=5, label="after: the client's own")
        if len(told) <= charts.BARS_UP_TO:
            axes.set_yticks(rows, [str(client) for client in told])
        else:
            axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.invert_yaxis()
        axes.set_ylabel("client")
        axes.set_xlabel("accuracy on the client's held-out examples, %")
        axes.legend(ncols=2, loc="lower left", bbox_to_anchor=(0, 1))
        return charts.svg(drawing, "gains")
