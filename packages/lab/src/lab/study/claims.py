"""What is claimed of levels against their factor's first, in plain words, and what is not.

Nothing stronger than `intervals` allows: a difference is named where its interval, seed by seed, leaves out 0
with the factor's other levels allowed for; else it is said that none is shown, and what is not ruled out.
"""

from __future__ import annotations

from collections.abc import Sequence

from lab.study.effects import Effect, effects
from lab.study.measures import target_words
from lab.study.schema import Factor, level_name
from lab.study.summary import Summary


def against_first(compared: Sequence[Effect]) -> str:
    """What is said of each level against the first, those of which the same is said together."""
    first = compared[0].reference

    def those(verdict: str) -> list[Effect]:
        return [effect for effect in compared if effect.verdict == verdict]

    def names(found: Sequence[Effect]) -> str:
        return listed([effect.level for effect in found])

    parts = []
    apart = those("difference")
    if always := [effect for effect in apart if _always(effect)]:
        said = ", ".join(map(_change, always))
        parts.append(f"Against {first}, in each of {_count(always)} repeats: {said}.")
    if mostly := [effect for effect in apart if not _always(effect)]:
        said = ", ".join(f"{_change(effect)} ({_ends([effect])})" for effect in mostly)
        parts.append(f"Against {first}, seed by seed ({_of(mostly)}): {said}.")
    parts += [said for effect in apart if (said := _uneven(effect))]
    if same := those("the same"):
        verb = "is the same as" if len(same) == 1 else "are each the same as"
        parts.append(f"{capital(names(same))} {verb} {first} in every repeat.")
    if nearly := those("not after Holm"):
        alone = "; ".join(f"{effect.level}: {_ends([effect], True)}" for effect in nearly)
        number = sum(effect.adjusted is not None for effect in compared)
        parts.append(
            f"Against {first} no difference is shown for {names(nearly)} once {number} comparisons are "
            f"allowed for, though each one's own interval leaves out 0 ({alone})."
        )
    if together := those("no difference shown"):
        parts.append(
            f"Against {first} no difference is shown for {names(together)}; seed by seed ({_of(together)}), "
            f"anything from {_ends(together, True)} is not ruled out."
        )
    if unknown := those("too few repeats"):
        parts.append(f"Of {names(unknown)} against {first} nothing can be said: too few repeats.")
    if partial := those("not in every repeat"):
        parts.append(
            f"{capital(names(partial))} cannot be compared with {first}: not every repeat got there."
        )
    return " ".join(parts)


def _uneven(effect: Effect) -> str:
    """What an average over other factors hides."""
    if not effect.uneven:
        return ""
    (least, low), (most, high) = effect.uneven
    measure = effect.measure
    return (
        f"That of {effect.level} is an average of unlike ones, from {measure.shown(low, unit=False)} "
        f"with {least} to {measure.apart(high)} with {most}."
    )


def _always(effect: Effect) -> bool:
    """Whether to the digits that are told it is the same in every repeat, and known to no less than these."""
    found = effect.difference
    return len({*map(effect.measure.shown, found.each.values)}) == 1 and not (found.a.step or found.b.step)


def _interval(effect: Effect) -> tuple[float, float]:
    low, high = effect.difference.low or 0.0, effect.difference.high or 0.0
    return effect.measure.possible_apart(low), effect.measure.possible_apart(high)


def _ends(found: Sequence[Effect], unit: bool = False) -> str:
    """−0.42 to 1.00 points: the interval that holds all of theirs."""
    measure = found[0].measure
    low, high = min(_interval(e)[0] for e in found), max(_interval(e)[1] for e in found)
    last = measure.apart(high) if unit else measure.shown(high, unit=False)
    return f"{measure.shown(low, unit=False)} to {last}"


def _of(found: Sequence[Effect]) -> str:
    return f"95 % intervals, n = {_count(found)}"


def _count(found: Sequence[Effect]) -> str:
    numbers = sorted({effect.difference.each.n for effect in found})
    return str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"


def of_choice(summary: Summary, factor: Factor) -> str:
    """Which levels are shown to do better than the first, in what, and which are not."""
    better, worse, neither = [], [], []
    first = level_name(factor.levels[0])
    found = [e for e in effects(summary) if e.factor is factor]
    judged = [e for e in found if e.measure.better and _says(e)]
    partly: dict[str, Effect] = {}
    for effect in found:
        if effect.measure.target and effect.difference.a.n != effect.difference.b.n:
            partly.setdefault(effect.level, effect)
    for name in map(level_name, factor.levels[1:]):
        own = [effect for effect in judged if effect.level == name]
        apart = [effect for effect in own if effect.verdict == "difference"]
        good = [e.measure.label for e in apart if (e.difference.mean or 0.0) * e.measure.better > 0]
        bad = [e.measure.label for e in apart if (e.difference.mean or 0.0) * e.measure.better < 0]
        if good:
            better.append(f"{name} in {listed(good)}")
        if bad:
            worse.append(f"{name} in {listed(bad)}")
        if own and not apart and name not in partly:
            neither.append(name)
    said = []
    if better:
        said.append(f"Shown to do better than {first}: {'; '.join(better)}.")
    if worse:
        said.append(f"Shown to do worse than {first}: {'; '.join(worse)}.")
    if neither:
        said.append(f"Not shown to help or to harm in any outcome: {listed(neither)}.")
    said += [_reached(effect) for effect in partly.values()]
    if judged and not better:
        said.append(f"So nothing here is shown to help over {first}.")
    return " ".join(said)


def _reached(effect: Effect) -> str:
    """How often, where a target that some repeats missed leaves nothing to compare."""
    first, own = effect.difference.a, effect.difference.b
    assert effect.measure.target is not None
    return (
        f"{capital(effect.level)} reached {target_words(effect.measure.target)} in {own.n} of {own.asked} "
        f"repeats, {effect.reference} in {first.n} of {first.asked}: what that takes is not compared."
    )


def _says(effect: Effect) -> bool:
    return effect.verdict not in ("too few repeats", "not in every repeat")


def _change(effect: Effect) -> str:
    mean = effect.difference.mean or 0.0
    word = "higher" if mean > 0 else "lower"
    return f"{effect.level} is {effect.measure.apart(abs(mean))} {word}"


def of_ranking(ranking: dict[str, list[Effect]]) -> list[str]:
    """The ranking in words: for each outcome what is shown to move it, and what is not, the largest first."""
    paragraphs = []
    for outcome, found in ranking.items():
        moved = [e for e in found if e.verdict == "difference"]
        still = [e for e in found if e.verdict in ("no difference shown", "not after Holm")]
        same = [e for e in found if e.verdict == "the same"]
        parts = []
        if moved:
            parts.append("differences shown for " + listed(list(map(_rank, moved))))
        if still:
            parts.append("no difference shown for " + listed(list(map(_pair, still))))
        if same:
            parts.append("the same in every repeat at all levels of " + listed(list(map(_factor, same))))
        if parts:
            paragraphs.append(f"{capital(outcome)}: {'; '.join(parts)}.")
    return paragraphs


def _rank(effect: Effect) -> str:
    mean = effect.difference.mean or 0.0
    change = (
        f"{'+' if mean > 0 else '−'}{effect.measure.apart(abs(mean))}{' on average' * bool(effect.uneven)}"
    )
    return f"{effect.factor_name} ({effect.reference} → {effect.level}: {change}; {_where(effect)})"


def _pair(effect: Effect) -> str:
    """Of levels that could not be compared nothing is said."""
    return f"{effect.factor_name} ({effect.reference} → {effect.level}; {_where(effect)})"


def _factor(effect: Effect) -> str:
    return f"{effect.factor_name} ({_where(effect)})"


def _where(effect: Effect) -> str:
    where = f", {effect.stratum.name}" if effect.stratum.name else ""
    return f"study {effect.study}{where}"


def listed(names: Sequence[str]) -> str:
    """a, b and c; with semicolons where a name has a comma of its own."""
    comma = "; " if any("," in name for name in names) else ", "
    return names[0] if len(names) == 1 else comma.join(names[:-1]) + f"{comma.strip(', ')} and " + names[-1]


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]
