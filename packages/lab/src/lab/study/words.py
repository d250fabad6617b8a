"""What the figures say, in plain words made of the figures: nothing stronger than their intervals allow.

What is said of one level against another is in `claims`.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping

from lab.study import clocks
from lab.study.claims import against_first, capital, listed, of_choice
from lab.study.effects import Stratum, effects_of, strata
from lab.study.intervals import Interval
from lab.study.measures import Measure, Target, number
from lab.study.schema import Factor
from lab.study.summary import Comparison, Row, Summary

WIDE = 0.2  # of the mean: half an interval so wide agrees with nearly anything


def shown(measure: Measure, value: Interval) -> str:
    """93.87 % (95 % interval 92.10 to 95.64, n = 3)."""
    if value.mean is None:
        reaching = value.asked and measure.target
        return f"not reached in any of {value.asked} repeats" if reaching else "nothing measured"
    told = measure.shown(value.mean)
    if not value.whole:
        those = " that reached it" if measure.target else ""
        return f"{told} (mean of the {value.n} of {value.asked} repeats{those})"
    if value.low is None or value.high is None:
        return f"{told} (n = {value.n}, no interval)"
    low, high = (measure.shown(measure.possible(end), unit=False) for end in (value.low, value.high))
    if value.alike and not value.step:
        return f"{told} (the same in all {value.n} repeats)"
    if len({*map(measure.shown, value.values)}) == 1 and not value.step:
        return f"{told} (to these digits the same in all {value.n} repeats)"
    return f"{told} (95 % interval {low} to {high}, n = {value.n})"


def of_section(summary: Summary) -> list[str]:
    """Paragraphs."""
    paragraphs: list[str] = []
    for factor in summary.factors:
        for measure in summary.outcomes:
            paragraphs += filter(None, _of_factor(summary, factor, measure))
        if factor.choice and (said := of_choice(summary, factor)):
            paragraphs.append(said)
    if len(summary.rows) == 1:
        (row,) = summary.rows
        paragraphs.append(" ".join(f"{capital(m.label)}: {shown(m, row.of(m))}." for m in summary.outcomes))
    paragraphs += filter(None, [_of_ends(summary), _of_baseline(summary), _of_fewer(summary)])
    if compared := summary.comparisons():
        paragraphs.append(" ".join(map(of_published, compared)))
    paragraphs += filter(None, [_of_noise(summary), _of_trouble(summary)])
    return paragraphs


def _of_factor(summary: Summary, factor: Factor, measure: Measure) -> list[str]:
    """A paragraph for each task; one for all where the factor is what sets the tasks apart."""
    if factor is summary.of_clocks and measure.clocked:
        return [clocks.said(summary, measure)]
    found = strata(summary, factor)
    if len(found) < 2 or any(len(stratum.levels) > 1 for stratum in found):
        return [_of_stratum(summary, stratum, measure) for stratum in found]
    names = [name for stratum in found for name in stratum.levels]
    told, tasks = [], set()
    for stratum in found:
        for name in stratum.levels:
            if (value := stratum.level(name, measure)).mean is not None:
                clock = f", {stratum.clock} clock" * (names.count(name) > 1)
                told.append(f"{shown(measure, value)} at {name}{clock}")
                tasks.add(stratum.task)
    if not told:
        return []
    unlike = ": different tasks, which are not compared" * (len(tasks) > 1)
    return [f"{capital(measure.label)}{_over(found[0])} is {listed(told)}{unlike}."]


def _of_stratum(summary: Summary, stratum: Stratum, measure: Measure) -> str:
    factor, names = stratum.factor, stratum.levels
    found = {name: stratum.level(name, measure) for name in names}
    there = {name: value for name, value in found.items() if value.mean is not None}
    missed = [name for name, value in found.items() if value.mean is None and value.asked]
    if len(there) + len(missed) < 2 or not there:
        return ""
    where = f", {stratum.name}" if stratum.name else ""
    said = [f"{capital(measure.label)} by {factor.label or factor.name}{where}{_over(stratum)}"]
    known = {name: value for name, value in there.items() if value.whole}
    said += [f"{_range(known, measure)}." if known else "cannot be compared."]
    reached = "reached" if measure.target else "measured"
    if some := [f"{name} ({there[name].n} of {there[name].asked})" for name in there if name not in known]:
        said.append(f"{capital(reached)} in some repeats alone: {listed(some)}.")
    if missed:
        at = " at every combination of the other factors" * stratum.averaged
        said.append(f"Not {reached}{at} in any repeat: {listed(missed)}.")
    compared = [effect for effect in effects_of(summary, stratum, measure) if effect.level in there]
    if known and compared and compared[0].reference in there:
        said.append(against_first(compared))
    return " ".join(filter(None, said))


def _range(known: Mapping[str, Interval], measure: Measure) -> str:
    told = {name: shown(measure, value) for name, value in known.items()}
    if len(set(told.values())) == 1:
        return f"is {next(iter(told.values()))} at {listed(list(told))}"
    low = min(known, key=lambda name: known[name].mean or 0.0)
    high = max(known, key=lambda name: known[name].mean or 0.0)
    if len({measure.shown(value.mean) for value in known.values()}) == 1:
        return "is " + ", ".join(f"{words} at {name}" for name, words in told.items())
    return f"lies between {told[low]} at {low} and {told[high]} at {high}"


def _over(stratum: Stratum) -> str:
    """What a level's mean is taken over."""
    if not stratum.averaged:
        return ""
    part = len(stratum.even) < len(stratum.rows)
    return f" (averaged over the other factors{', where every level has been run' if part else ''})"


def _of_baseline(summary: Summary) -> str:
    """What of each baseline its cells reach, seed by seed."""
    measure = summary.learned
    if measure is None:
        return ""
    told = []
    for baseline in summary.baselines:
        beside = [row for row in summary.rows if row.cell.id in baseline.cell.beside]
        shares = {row.name: summary.share_of_centralized(row, measure) for row in beside}
        whole = baseline.of(measure)
        reached = {
            name: _share(share, measure, whole)
            for name, share in shares.items()
            if share is not None and share.n
        }
        if not reached:
            continue
        said = [f"{words} with {name}" for name, words in reached.items()]
        if len(set(reached.values())) == 1 and len(reached) > 1:
            said = [f"{next(iter(reached.values()))} in each of the {len(reached)} cells"]
        elif len(summary.rows) == 1:
            said = list(reached.values())
        told.append(f"of {shown(measure, whole)} federated training reaches {'; '.join(said)}")
    if not told:
        return ""
    every = ". ".join([told[0], *map(capital, told[1:])])
    gap = 100 * max(abs(summary.gap(row)) for row in summary.rows if summary.as_many(row))
    nearly = f" to within {gap:.1f} %" * (gap >= 0.05)
    under = f"in {measure.label}, seed by seed, with 95 % intervals"
    against = "Against training in one place on the same examples and as many of them"
    return f"{against}{nearly} ({under}): {every}."


def _of_fewer(summary: Summary) -> str:
    """Why some cells have no share of what their baseline reaches, where others have."""
    if not any(measure.better > 0 for measure in summary.outcomes):
        return ""
    gaps = {r.name: summary.gap(r) for r in summary.rows if not (r.ends_early or summary.as_many(r))}
    told = [
        f"{abs(100 * gap):.0f} % {'more' if gap > 0 else 'fewer'} with {name}" for name, gap in gaps.items()
    ]
    return (
        f"No % of training in one place where clients saw other numbers of examples: up to {listed(told)}."
        if told
        else ""
    )


def _of_ends(summary: Summary) -> str:
    """What is not compared where runs end early, and the examples that they took until then instead."""
    early = [row for row in summary.rows if row.ends_early]
    if not early:
        return ""
    at = summary.ends_at
    ends = "when they no longer improve" if at is None else f"once they reach {100 * at:g} %"
    beside = [(row, base) for row in early if (base := summary.baseline_of(row)) is not None]
    without = ["what they have learned by then is not compared"]
    without *= len(summary.outcomes) < len(summary.study.outcomes)
    without += ["there is no % of centralized"] * bool(beside)
    said = f"Runs end {ends}{', so ' * bool(without)}{' and '.join(without)}."
    told = [
        f"{_until(row)} with {row.name} (in one place {_until(base)})"
        for row, base in beside
        if row.examples and base.examples
    ]
    return said + (f" Thousands of examples until then: {'; '.join(told)}." if told else "")


def _until(row: Row) -> str:
    """Mean thousands of examples, and whether the accuracy that would have ended its runs was reached."""
    thousands = statistics.fmean(row.examples.values()) / 1000
    told = number(thousands, 0 if thousands >= 10 else 1)
    if (at := row.cell.experiment.stop.accuracy) is None:
        return told
    reached = sum(Target("accuracy", at).round_of(repeat) is not None for repeat in row.finished)
    every = len(row.finished)
    return told if reached == every else f"{told}, reached in {reached} of {every}"


def _share(share: Interval, measure: Measure, whole: Interval) -> str:
    """96.7 % (96.1 to 97.2), of `whole`."""
    words = f"{number(share.mean or 0.0, 1)} %"
    if not share.whole:
        return f"{words} (mean of {share.n} of {share.asked} repeats alone)"
    if share.n > 1 and set(share.values) == {100.0}:
        return "exactly 100 % in every repeat"
    if share.low is None or share.high is None:
        return f"{words} (n = {share.n})"
    even = ", no difference shown" if share.low <= 100 <= share.high else ""
    low, high = (number(measure.possible_share(end, whole.values), 1) for end in (share.low, share.high))
    return f"{words} ({low} to {high}{even})"


def of_published(found: Comparison) -> str:
    figure, measure = found.figure, found.measure
    assert figure.value is not None
    scale = measure.scale if measure.unit == "%" else 1.0
    value, high = figure.value * scale, None if figure.high is None else figure.high * scale
    told = (
        measure.shown(value)
        if high is None
        else f"{measure.shown(value, unit=False)} to {measure.shown(high)}"
    )
    where = f" with {found.row.name}" if found.row.cell.levels else ""
    verdict = ""
    if (ends := found.ours.another) is not None and found.ours.whole:
        low, upto = map(measure.possible, ends)
        inside = low <= (value if high is None else high) and value <= upto
        reach = f"{measure.shown(low, unit=False)} to {measure.shown(upto)}"
        verdict = f"; {'within' if inside else 'outside of'} where one more run of ours would lie ({reach})"
        if inside and (ends[1] - ends[0]) / 2 > WIDE * abs(found.ours.mean or 0.0):
            verdict += ", which is too wide to say much"
    ours = shown(measure, found.ours)
    return f"{capital(figure.source)} published {told} ({measure.label}{where}); ours: {ours}{verdict}."


def _of_noise(summary: Summary) -> str:
    """Real times that say nothing, as where the machine did other things beside."""
    times = [
        measure
        for measure in summary.columns
        if measure.unit == "s" and "cpu" not in measure.name
        if not measure.clocked or summary.clock == "real clock"
    ]
    every = [row.of(measure) for measure in times for row in summary.rows]
    wide = sum(value.half is not None and value.half > (value.mean or 0.0) for value in every)
    if not wide:
        return ""
    return (
        f"Times by the real clock: {wide} of {len(every)} have an interval wider than themselves to either "
        "side, as where a machine does other things beside: read no speed off them."
    )


def _of_trouble(summary: Summary) -> str:
    rows = (*summary.rows, *summary.baselines)
    missing = [summary.title(row) for row in rows if row.record is None]
    said = [f"Not run: {'; '.join(missing)}."] * bool(missing)
    failed: dict[str, list[str]] = {}  # reason → whom
    for row in rows:
        for repeat in row.failed:
            failed.setdefault(str(repeat.reason), []).append(f"{summary.title(row)} seed {repeat.seed}")
    said += [f"Failed: {'; '.join(who)}: {reason.rstrip('.')}." for reason, who in failed.items()]
    return " ".join(said)
