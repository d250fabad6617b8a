"""What the figures say, in plain words made of the figures: nothing stronger than their intervals allow.

A difference is named only where two 95 % intervals do not overlap; otherwise it says that none is shown.
"""

from __future__ import annotations

from collections.abc import Sequence

from lab.study.files import Factor, level_name
from lab.study.intervals import Interval
from lab.study.measures import Measure
from lab.study.summary import Comparison, Effect, Summary


def shown(measure: Measure, value: Interval) -> str:
    """93.87 % (95 % interval 92.10 to 95.64, n = 3)."""
    if value.mean is None:
        reaching = value.asked and measure.name.endswith("_to_target")
        return f"not reached in any of {value.asked} repeats" if reaching else "nothing measured"
    told = measure.shown(value.mean)
    if value.low is None or value.high is None:
        return f"{told} (n = {value.n}, no interval)"
    low, high = measure.shown(value.low, unit=False), measure.shown(value.high, unit=False)
    reached = f", reached in {value.n} of {value.asked}" if value.n < value.asked else ""
    if value.half == 0:
        return f"{told} (the same in all {value.n} repeats{reached})"
    return f"{told} (95 % interval {low} to {high}, n = {value.n}{reached})"


def of_section(summary: Summary) -> list[str]:
    """Paragraphs."""
    paragraphs = []
    for factor in summary.factors:
        for measure in summary.outcomes:
            if said := _of_factor(summary, factor, measure):
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
    if len(known) < 2:
        return ""
    first = names[0]
    label = factor.label or factor.name
    over = " (averaged over the other factors)" if _averaged(summary) else ""
    low = min(known, key=lambda name: known[name].mean or 0.0)
    high = max(known, key=lambda name: known[name].mean or 0.0)
    said = [
        f"{_capital(measure.label)} by {label}{over} goes from {shown(measure, known[low])} at {low} "
        f"to {shown(measure, known[high])} at {high}."
    ]
    said += [f"{_capital(name)}: {shown(measure, found[name])}." for name in names if name not in known]
    if first in known:
        effects = [
            effect
            for effect in summary.effects()
            if effect.factor is factor and effect.measure is measure and effect.level in known
        ]
        said.append(_verdicts(effects, first, measure))
    return " ".join(filter(None, said))


def _verdicts(effects: Sequence[Effect], first: str, measure: Measure) -> str:
    apart = [e for e in effects if e.difference.verdict == "difference"]
    together = [e.level for e in effects if e.difference.verdict == "no difference shown"]
    unknown = [e.level for e in effects if e.difference.verdict == "too few repeats"]
    parts = []
    if apart:
        parts.append(f"Against {first}, " + ", ".join(_change(effect, measure) for effect in apart) + ".")
    if together:
        parts.append(f"Between {first} and {_list(together)} no difference is shown: the intervals overlap.")
    if unknown:
        parts.append(f"Of {_list(unknown)} against {first} nothing can be said: too few repeats.")
    return " ".join(parts)


def _change(effect: Effect, measure: Measure) -> str:
    mean = effect.difference.mean or 0.0
    word = "higher" if mean > 0 else "lower"
    return f"{effect.level} is {_points(measure, abs(mean))} {word}"


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
    ours = shown(measure, found.ours)
    return f"{_capital(figure.source)} published {told} ({measure.label}{where}); ours: {ours}{verdict}."


def _of_trouble(summary: Summary) -> str:
    said = []
    for row in (*summary.rows, *summary.baselines):
        if row.record is None:
            said.append(f"{_capital(row.name)} has not been run.")
        for repeat in row.failed:
            said.append(f"{_capital(row.name)}, seed {repeat.seed}, failed: {repeat.reason}.")
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


def _averaged(summary: Summary) -> bool:
    return summary.study.design == "grid" and len(summary.factors) > 1


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
