"""What the figures say, in plain words made of the figures: nothing stronger than their intervals allow.

A difference is named only where two 95 % intervals do not overlap; otherwise it says that none is shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lab.study.files import Factor, level_name
from lab.study.intervals import Interval
from lab.study.measures import Measure
from lab.study.summary import Comparison, Effect, Summary

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
    paragraphs = []
    for factor in summary.factors:
        for measure in summary.outcomes:
            if said := _of_factor(summary, factor, measure):
                paragraphs.append(said)
        if factor.choice and (said := _of_choice(summary, factor)):
            paragraphs.append(said)
    if not summary.study.factors:
        for row in summary.rows:
            paragraphs.append(
                " ".join(f"{_capital(m.label)}: {shown(m, row.of(m))}." for m in summary.outcomes)
            )
    if said := _of_baseline(summary):
        paragraphs.append(said)
    if compared := summary.comparisons():
        paragraphs.append(" ".join(map(of_published, compared)))
    if said := _of_trouble(summary):
        paragraphs.append(said)
    return paragraphs


def _of_factor(summary: Summary, factor: Factor, measure: Measure) -> str:
    names = [level_name(level) for level in factor.levels]
    found = {name: summary.level(factor, name, measure) for name in names}
    known = {name: value for name, value in found.items() if value.mean is not None}
    missed = [name for name, value in found.items() if value.mean is None and value.asked]
    if len(known) + len(missed) < 2 or not known:
        return ""
    first = names[0]
    said = [f"{_capital(measure.label)} by {factor.label or factor.name}{_over(summary, factor)}"]
    said += [_range(known, measure) + "."]
    if missed:
        what = "Not reached in any repeat" if measure.name.endswith("_to_target") else "Nothing measured"
        said.append(f"{what}: {_list(missed)}.")
    if first in known:
        effects = [
            effect
            for effect in summary.effects()
            if effect.factor is factor and effect.measure is measure and effect.level in known
        ]
        said.append(_verdicts(effects, first))
    return " ".join(filter(None, said))


def _range(known: Mapping[str, Interval], measure: Measure) -> str:
    told = {name: shown(measure, value) for name, value in known.items()}
    if len(set(told.values())) == 1:
        return f"is {next(iter(told.values()))} at {_list(list(told))}"
    low = min(known, key=lambda name: known[name].mean or 0.0)
    high = max(known, key=lambda name: known[name].mean or 0.0)
    if len({measure.shown(value.mean) for value in known.values()}) == 1:
        return "is " + ", ".join(f"{words} at {name}" for name, words in told.items())
    return f"lies between {told[low]} at {low} and {told[high]} at {high}"


def _over(summary: Summary, factor: Factor) -> str:
    """What a level's mean is taken over."""
    if summary.study.design != "grid" or len(summary.factors) < 2:
        return ""
    part = len(summary.even(factor)) < len(summary.compared(factor))
    return f" (averaged over the other factors{', where every level has been run' if part else ''})"


def _verdicts(effects: Sequence[Effect], first: str) -> str:
    def those(verdict: str) -> list[str]:
        return [effect.level for effect in effects if effect.difference.verdict == verdict]

    parts = []
    if apart := [effect for effect in effects if effect.difference.verdict == "difference"]:
        parts.append(f"Against {first}, " + ", ".join(map(_change, apart)) + ".")
    if together := those("no difference shown"):
        parts.append(f"Against {first} no difference is shown for {_list(together)}: the intervals overlap.")
    if unknown := those("too few repeats"):
        parts.append(f"Of {_list(unknown)} against {first} nothing can be said: too few repeats.")
    if partial := those("not in every repeat"):
        parts.append(
            f"{_capital(_list(partial))} cannot be compared with {first}: not every repeat got there."
        )
    return " ".join(parts)


def _of_choice(summary: Summary, factor: Factor) -> str:
    """Which levels are shown to do better than the first, in what, and which are not."""
    better, worse, neither = [], [], []
    first = level_name(factor.levels[0])
    judged = [e for e in summary.effects() if e.factor is factor and e.measure.better and _says(e)]
    for name in map(level_name, factor.levels[1:]):
        own = [effect for effect in judged if effect.level == name]
        apart = [effect for effect in own if effect.difference.verdict == "difference"]
        good = [e.measure.label for e in apart if (e.difference.mean or 0.0) * e.measure.better > 0]
        bad = [e.measure.label for e in apart if (e.difference.mean or 0.0) * e.measure.better < 0]
        if good:
            better.append(f"{name} in {_list(good)}")
        if bad:
            worse.append(f"{name} in {_list(bad)}")
        if own and not apart:
            neither.append(name)
    said = []
    if better:
        said.append(f"Shown to do better than {first}: {'; '.join(better)}.")
    if worse:
        said.append(f"Shown to do worse than {first}: {'; '.join(worse)}.")
    if neither:
        said.append(f"Not shown to help or to harm in any outcome: {_list(neither)}.")
    if judged and not better:
        said.append(f"So nothing here is shown to help over {first}.")
    return " ".join(said)


def _says(effect: Effect) -> bool:
    return effect.difference.verdict in ("difference", "no difference shown")


def _change(effect: Effect) -> str:
    mean = effect.difference.mean or 0.0
    word = "higher" if mean > 0 else "lower"
    return f"{effect.level} is {_points(effect.measure, abs(mean))} {word}"


def _points(measure: Measure, value: float) -> str:
    return f"{measure.shown(value, unit=False)} points" if measure.unit == "%" else measure.shown(value)


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
        said.append(f"{_capital(row.name)}: {words} of centralized{against}{verdict}.")
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
    return f"{_capital(figure.source)} published {told} ({measure.label}{where}); ours: {ours}{verdict}."


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


def of_all(ranking: dict[str, list[Effect]]) -> list[str]:
    """The ranking in words: for each measure what moved it most, and what was not shown to move it."""
    paragraphs = []
    for label, effects in ranking.items():
        moved = [e for e in effects if e.difference.verdict == "difference"]
        still = [e for e in effects if e.difference.verdict == "no difference shown"]
        if not moved and not still:
            continue
        said = f"{_capital(label)}: "
        if moved:
            said += "moved most by " + ", then by ".join(_rank(effect) for effect in moved)
        if still:
            names = _list([f"{_factor(effect)} ({effect.reference} → {effect.level})" for effect in still])
            said += f"{'; ' if moved else ''}no difference shown for {names}"
        paragraphs.append(said + ".")
    return paragraphs


def _rank(effect: Effect) -> str:
    mean = effect.difference.mean or 0.0
    sign = "+" if mean > 0 else "−"
    return (
        f"{_factor(effect)} ({effect.reference} → {effect.level}: {sign}{_points(effect.measure, abs(mean))})"
    )


def _factor(effect: Effect) -> str:
    return f"{effect.factor.label or effect.factor.name} in {effect.study}"


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
