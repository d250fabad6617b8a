"""What a study asks for and its records lack, and why: never a silent gap in a report."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone

from lab.study.grids import Table
from lab.study.records import Unfinished
from lab.study.summary import Summary

_NAMED = 6  # cells that are missing, by name


def state(every: Sequence[Summary]) -> str:
    """How much of all sections has been run, in one line."""
    rows = [row for own in every for row in (*own.rows, *own.baselines)]
    finished = sum(len(row.finished) for row in rows)
    failed = sum(len(row.failed) for row in rows)
    missing = sum(row.record is None for row in rows)
    begun = sum(bool(own.records) for own in every)
    said = f"{_count(finished, 'run')} of {_count(len(rows) - missing, 'cell')} finished, {failed} failed"
    said += f", {missing} of {_count(len(rows), 'cell')} not run" if missing else ""
    return said + (f"; {begun} of {len(every)} studies begun" if begun < len(every) else "")


def why(found: Summary, left: Unfinished | None) -> str:
    if left is None:
        return "still under way, or ended from outside" if found.records else "not begun"
    return f"{left.why} ({date(left.at)} UTC)"


def of(found: Summary, because: str) -> str:
    """What one section lacks, in a sentence; empty where it lacks nothing."""
    rows = (*found.rows, *found.baselines)
    missing = [row for row in rows if row.record is None]
    failed = sum(len(row.failed) for row in rows)
    gaps = []
    if missing:
        names = "; ".join(found.title(row) for row in missing[:_NAMED]) + (
            " …" if len(missing) > _NAMED else ""
        )
        gaps.append(f"{len(missing)} of {len(rows)} cells have not been run ({names})")
    if (number := _repeats(found)) and number != str(found.study.repeats):
        gaps.append(f"cells have {number} of {found.study.repeats} repeats")
    ending = f". Why: {because}" if gaps else ""
    if failed:
        gaps.append(f"{_count(failed, 'run')} failed, with the reasons told below")
    said = ", ".join(gaps)
    return f"{said[:1].upper()}{said[1:]}{ending}." if gaps else ""


def coverage(every: Sequence[Summary], whys: Sequence[str]) -> Table | None:
    """What of a study with several parts has been run; nothing where that is all."""
    if len(every) < 2 or not any(of(own, "") for own in every):
        return None
    lines = []
    for own, because in zip(every, whys, strict=True):
        rows, planned = (*own.rows, *own.baselines), own.study.repeats
        run = sum(row.record is not None for row in rows)
        repeats = _repeats(own) or "0"
        failed = str(sum(len(row.failed) for row in rows) or "–")
        told = "" if run == len(rows) and repeats == str(planned) else because
        name = own.study.title or own.section.key
        lines.append((name, f"{run} of {len(rows)}", f"{repeats} of {planned}", failed, told))
    return Table(("study", "cells run", "repeats of each", "failed runs", "why not all"), tuple(lines))


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def date(at: float) -> str:
    return datetime.fromtimestamp(at, timezone.utc).strftime("%Y-%m-%d %H:%M")


def _repeats(found: Summary) -> str:
    """How many of those asked for the cells have that have been run at all: 3, or 1 to 3."""
    asked = {found.study.seed(number) for number in range(found.study.repeats)}
    kept = [row.record for row in (*found.rows, *found.baselines) if row.record is not None]
    counts = sorted({len(asked & record.seeds()) for record in kept})
    return "" if not counts else f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
