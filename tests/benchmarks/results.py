"""What a benchmark says: one JSON object each, with the raw repeats in it, and a table to read."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


class Differs(Exception):
    """The results are not the same, so that comparing their times would say nothing."""


@dataclass(frozen=True)
class Figure:
    """`ours_s` and `reference_s` are medians of `repeats`; in memory figures they are MB, as `unit` says."""

    name: str
    size_mb: float | None
    ours_s: float | None
    reference_s: float | None
    ratio: float | None
    repeats: dict[str, list[float]] = field(default_factory=dict)
    target: str = ""
    met: bool | None = None
    unit: str = "s"
    notes: dict[str, Any] = field(default_factory=dict)


def compare(
    name: str,
    size_mb: float | None,
    ours: Sequence[float],
    reference: Sequence[float],
    *,
    at_most: float | None = None,
    **more: Any,
) -> Figure:
    """Medians against medians; `at_most` is the ratio to reach."""
    median, floor = statistics.median(ours), statistics.median(reference)
    ratio = median / floor
    return Figure(
        name,
        size_mb,
        median,
        floor,
        ratio,
        {"ours": list(ours), "reference": list(reference)},
        target="" if at_most is None else f"≤ {at_most:.3g}×",
        met=None if at_most is None else ratio <= at_most,
        **more,
    )


def write(figures: Sequence[Figure], path: Path) -> None:
    path.write_text(json.dumps([asdict(figure) for figure in figures], indent=1) + "\n", encoding="utf-8")


def table(figures: Sequence[Figure]) -> str:
    """Markdown, as docs/benchmarks.md shows it."""
    rows = [
        "| benchmark | MB | ours | reference | ratio | to reach | |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for figure in figures:
        met = {True: "met", False: "**missed**", None: ""}[figure.met]
        size = "" if figure.size_mb is None else f"{figure.size_mb:g}"
        ratio = "" if figure.ratio is None else f"{figure.ratio:.2f}"
        ours, reference = _shown(figure.ours_s, figure.unit), _shown(figure.reference_s, figure.unit)
        rows.append(f"| {figure.name} | {size} | {ours} | {reference} | {ratio} | {figure.target} | {met} |")
    return "\n".join(rows)


def _shown(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    return f"{value * 1000:.1f} ms" if unit == "s" and value < 1 else f"{value:.2f} {unit}"
