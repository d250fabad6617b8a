"""What the figures say, in plain words made of the figures: nothing stronger than their intervals allow.

What is said of one level against another is in `claims`.
"""

from __future__ import annotations

from collections.abc import Mapping

from lab.study.claims import against_first, capital, listed, of_choice
from lab.study.effects import Stratum, effects_of, strata
from lab.study.files import Factor
from lab.study.intervals import Interval
from lab.study.measures import Measure
from lab.study.summary import Comparison, Summary

WIDE = 0.2  # of the mean: half an interval so wide agrees with nearly anything


def shown(measure: Measure, value: Interval) -> str:
    """93.87 % (95 % interval 92.10 to 95.64, n = 3)."""
    if value.mean is None:
        reaching = value.asked and measure.name.endswith("_to_target")
        return f"not reached in any of {value.asked} repeats" if reaching else "nothing measured"
    told = measure.shown(value.mean)
    reached = "" if value.whole else f", reached in {value.n} of {value.asked}"
    if value.low is None or value.high is None:
        return f"{told} (n = {value.n}, no interval{reached})"
    low, high = (measure.shown(measure.possible(end), unit=False) for end in (value.low, value.high))
    if value.half == 0:
        return f"{told} (the same in all {value.n} repeats{reached})"
    if low == high:
        return f"{told} (to these digits the same in all {value.n} repeats{reached})"
    return f"{told} (95 % interval {low} to {high}, n = {value.n}{reached})"


def of_section(summary: Summary) -> list[str]:
    """Paragraphs."""
    paragraphs: list[str] = []
    for factor in summary.factors:
        for measure in summary.outcomes:
            paragraphs += filter(None, _of_factor(summary, factor, measure))
        if factor.choice and (said := of_choice(summary, factor)):
            paragraphs.append(said)
    if not summary.study.factors:
        for row in summary.rows:
            paragraphs.append(
                " ".join(f"{capital(m.label)}: {shown(m, row.of(m))}." for m in summary.outcomes)
            )
    if said := _of_baseline(summary):
        paragraphs.append(said)
    if compared := summary.comparisons():
        paragraphs.append(" ".join(map(of_published, compared)))
    if said := _of_trouble(summary):
        paragraphs.append(said)
    return paragraphs


def _of_factor(summary: Summary, factor: Factor, measure: Measure) -> list[str]:
    """A paragraph for each task; one for all where the factor is what sets the tasks apart."""
    found = strata(summary, factor)
    if len(found) < 2 or any(len(stratum.levels) > 1 for stratum in found):
        return [_of_stratum(summary, stratum, measure) for stratum in found]
    told = [
        f"{shown(measure, value)} at {name}"
        for stratum in found
        for name in stratum.levels
        if (value := stratum.level(name, measure)).mean is not None
    ]
    if not told:
        return []
    return [f"{capital(measure.label)} is {listed(told)}: different tasks, which are not compared."]


def _of_stratum(summary: Summary, stratum: Stratum, measure: Measure) -> str:
    factor, names = stratum.factor, stratum.levels
    found = {name: stratum.level(name, measure) for name in names}
    known = {name: value for name, value in found.items() if value.mean is not None}
    missed = [name for name, value in found.items() if value.mean is None and value.asked]
    if len(known) + len(missed) < 2 or not known:
        return ""
    where = f", {stratum.name}" if stratum.name else ""
    said = [f"{capital(measure.label)} by {factor.label or factor.name}{where}{_over(stratum)}"]
    said += [_range(known, measure) + "."]
    if missed:
        what = "Not reached in any repeat" if measure.name.endswith("_to_target") else "Nothing measured"
        said.append(f"{what}: {listed(missed)}.")
    compared = [effect for effect in effects_of(summary, stratum, measure) if effect.level in known]
    if compared and compared[0].reference in known:
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
    if not summary.baselines:
        return ""
    measure = summary.learned
    if measure is None:
        return ""
    said = []
    single = len(summary.baselines) == 1
    if single:
        own = summary.baselines[0].of(measure)
        said.append(
            f"Training in one place, on the same examples and as many of them, gives {measure.label} "
            f"{shown(measure, own)}."
        )
    else:
        said.append(f"Beside training in one place on the same examples, by {measure.label}:")
    for row in summary.rows:
        share = summary.share_of_centralized(row, measure)
        if share is None or share.mean is None:
            continue
        words = f"{share.mean:.1f} %"
        if share.low is not None and share.high is not None:
            words += f" ({share.low:.1f} to {share.high:.1f})"
        baseline = summary.baseline_of(row)
        against = "" if single or baseline is None else f", which is {shown(measure, baseline.of(measure))}"
        even = share.low is not None and share.high is not None and share.low <= 100 <= share.high
        verdict = ", no difference shown" if even else ""
        said.append(f"{capital(row.name)}: {words} of centralized{against}{verdict}.")
    return " ".join(said)


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
    inside = found.ours.holds(value, high)
    verdict = ""
    if inside is not None and found.ours.n == found.ours.asked:
        verdict = "; it lies within our interval" if inside else "; it lies outside of our interval"
        if inside and (found.ours.half or 0.0) > WIDE * abs(found.ours.mean or 0.0):
            verdict += ", which is too wide to say much"
    ours = shown(measure, found.ours)
    return f"{capital(figure.source)} published {told} ({measure.label}{where}); ours: {ours}{verdict}."


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
