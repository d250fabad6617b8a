"""A study's report: figures worked out right, words no stronger than they allow, all from the records."""

from __future__ import annotations

import csv
import re
import statistics
import warnings
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lab.options import TASKS
from lab.study import claims, clocks, curves, grids, page, plots, words
from lab.study.cells import Cell
from lab.study.effects import effects, effects_of, ranked, strata
from lab.study.files import load
from lab.study.intervals import Interval, holm, interval, paired
from lab.study.measures import Target, named
from lab.study.records import CellRecord, Store, Unfinished, figures
from lab.study.schema import Section, Study
from lab.study.summary import Summary, summary
from matplotlib.figure import Figure
from roundtable.errors import NotPossible, Unknown
from roundtable.messages import RoundRecord
from scipy import stats

from tests.lab.studies import a_repeat, records, section, tiny

PUBLISHED = """
[[published]]
source = "A paper"
cells = { clients = 2 }
value = 0.9
"""
OTHER_BATCHES = """
[[factors]]
name = "batch"
field = "training.batch_size"
levels = [16, 32, 48, 64]
"""
OTHER_TASKS = """
[[factors]]
name = "kind"
levels = [{ name = "one", set = { task = "digits" } }, { name = "two", set = { task = "mnist" } }]
"""
PAIRS = st.lists(st.tuples(*[st.floats(-1e6, 1e6).map(lambda x: round(x, 3))] * 2), min_size=2, max_size=8)
VALUES = st.lists(st.floats(-1e6, 1e6).map(lambda x: round(x, 3)), min_size=2, max_size=8)


# --- intervals


@settings(max_examples=30, deadline=None)
@given(VALUES)
def test_an_interval_is_scipys(values: list[float]) -> None:
    found = interval(values)
    assert found.mean == pytest.approx(statistics.fmean(values))
    if len(set(values)) > 1:
        low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
        assert (found.low, found.high) == (pytest.approx(low, abs=1e-6), pytest.approx(high, abs=1e-6))


def _by_seed(values: Sequence[float]) -> dict[int, float | None]:
    return dict(enumerate(values, 1))


@settings(max_examples=50, deadline=None)
@given(PAIRS)
def test_a_differences_interval_is_that_of_the_paired_t_test(pairs: list[tuple[float, float]]) -> None:
    a, b = zip(*pairs, strict=True)
    own = paired(_by_seed(a), _by_seed(b))
    each = np.array(b) - np.array(a)
    if np.ptp(each) < 1e-3:
        return
    theirs = stats.ttest_rel(b, a)
    low, high = theirs.confidence_interval(0.95)
    assert own.mean == pytest.approx(np.mean(each), abs=1e-6)
    assert (own.low, own.high) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))
    assert own.p == pytest.approx(theirs.pvalue, abs=1e-6)
    claimed = own.verdict(own.p) == "difference"
    assert claimed == (theirs.pvalue < 0.05) == (not low <= 0 <= high)


@settings(max_examples=50, deadline=None)
@given(PAIRS, st.lists(st.integers(-1000, 1000), min_size=8, max_size=8), st.permutations(range(8)))
def test_what_a_seed_does_to_both_is_no_part_of_their_difference(
    pairs: list[tuple[float, float]], offsets: list[int], order: list[int]
) -> None:
    before = paired(*(_by_seed(side) for side in zip(*pairs, strict=True)))
    moved = [(a + offset, b + offset) for (a, b), offset in zip(pairs, offsets, strict=False)]
    numbered = [order[at] for at in range(len(pairs))]  # seeds in another order
    after = paired(*(dict(zip(numbered, side, strict=True)) for side in zip(*moved, strict=True)))
    for one, other in ((before.mean, after.mean), (before.half, after.half)):
        assert one == pytest.approx(other, abs=1e-4)


def test_only_seeds_that_both_have_are_compared_and_one_pair_allows_no_verdict() -> None:
    two = paired({1: 0.5, 2: 0.6, 3: 0.9}, {2: 0.65, 3: 0.96, 4: 0.1})
    assert two.each.values == pytest.approx((0.05, 0.06)) and two.a.values == (0.6, 0.9)
    one = paired({1: 0.5, 2: 0.6}, {2: 0.7, 3: 0.8})
    assert (one.each.n, one.half, one.p) == (1, None, None)
    assert one.verdict(None) == "too few repeats"
    assert paired({1: 0.5}, {2: 0.7}).mean is None
    assert paired({1: 5.0, 2: 6.0, 3: 7.0}, {1: 1.0, 2: 2.0, 3: None}).verdict(0.0) == "not in every repeat"


def test_repeats_that_are_all_alike_are_a_fact_in_counts_and_little_in_whole_rounds() -> None:
    ones, twos = _by_seed([1.0, 1.0, 1.0]), _by_seed([2.0, 2.0, 2.0])
    exact, rounds = paired(ones, twos), paired(ones, twos, (1.0, 1.0))
    assert exact.constant and exact.verdict(exact.p) == "difference"
    assert rounds.half == pytest.approx(stats.t.ppf(0.975, 2) / np.sqrt(6) / np.sqrt(3))
    assert rounds.verdict(rounds.p) == "no difference shown"
    uneven = paired(ones, twos, (3.0, 4.0))
    assert uneven.half == pytest.approx(stats.t.ppf(0.975, 2) * 5 / np.sqrt(12) / np.sqrt(3))
    assert interval([3.0] * 3, 5.0).half == pytest.approx(
        stats.t.ppf(0.975, 2) * 5 / np.sqrt(12) / np.sqrt(3)
    )
    learned = paired(ones, twos, learned=True)  # shares of few examples are often as far apart by chance
    assert learned.verdict(learned.p) == "too few repeats" and learned.half is None
    same = paired(ones, ones, learned=True)
    assert same.verdict(same.p) == "the same"
    nearly = paired(ones, dict.fromkeys(ones, 1.0 + 1e-15))
    assert nearly.verdict(nearly.p) == "the same"
    for steps in ((1.0, 1.0), (1.0, 0.0), (0.0, 1.0)):  # at one evaluation, which is not at one moment
        there = paired(ones, ones, steps)
        assert there.p == 1.0 and there.verdict(there.p) == "no difference shown"


CHANCES = st.lists(st.none() | st.floats(0, 1), max_size=8)


@settings(max_examples=50, deadline=None)
@given(CHANCES)
def test_holms_correction_stops_at_the_first_p_that_is_too_large(chances: list[float | None]) -> None:
    """As Holm tells it: the smallest p against 5 % ÷ m, the next against 5 % ÷ (m − 1), until one fails."""
    known = sorted(p for p in chances if p is not None)
    least = next((p for rank, p in enumerate(known) if p * (len(known) - rank) >= 0.05), 2.0)
    adjusted = holm(chances)
    assert [p is None for p in adjusted] == [p is None for p in chances]
    for p, own in zip(chances, adjusted, strict=True):
        if p is not None and own is not None:
            assert (own < 0.05) == (p < least)
            assert p <= own <= 1


# --- measures


def test_a_target_is_reached_in_the_first_evaluated_round_at_or_above_it() -> None:
    repeat = a_repeat(1, (0.3, 0.8, 0.9))
    target = Target("accuracy", 0.8)
    assert target.round_of(repeat) == 1
    assert Target("accuracy", 0.95).round_of(repeat) is None


def test_a_loss_is_reached_from_above_and_less_of_it_is_better(tmp_path: Path) -> None:
    repeat = a_repeat(1, (0.3, 0.6, 0.9))  # a loss of .7, .4, .1
    assert Target("loss", 0.5).round_of(repeat) == 1
    assert Target("loss", 0.05).round_of(repeat) is None
    study = section(tiny(tmp_path, more="centralized = true")).study
    assert [named(f"{scope}loss", study).better for scope in ("", "metrics.", "federated.")] == [-1] * 3
    assert all(named(f"{scope}loss", study).learned for scope in ("", "metrics.", "federated."))


def test_metrics_accuracy_is_the_accuracy_that_every_task_has(tmp_path: Path) -> None:
    study = section(tiny(tmp_path, more='target_metric = "metrics.accuracy"')).study
    repeat = a_repeat(1, (0.3, 0.8, 0.9))
    assert named("rounds_to_target", study).of(repeat) == 2
    assert named("rounds_to_target", study).label == "rounds to 80 %"
    assert named("metrics.accuracy", study) is not named("metrics.mean_iou", study)
    assert named("metrics.accuracy", study).of(repeat) == 90
    own = section(tiny(tmp_path, more='target_metric = "metrics.mean_iou"')).study
    assert named("rounds_to_target", own).label == "rounds to mean IoU 0.8"


def test_clients_cut_off_are_those_whose_updates_did_not_go_in(tmp_path: Path) -> None:
    cut = named("cut", section(tiny(tmp_path)).study)
    rounds = [{"lost": 5}, {"late": 1}, {"dropped": 3, "late": 2}]
    told = tuple(figures(RoundRecord(round=at, **own)) for at, own in enumerate(rounds, 1))
    assert cut.of(a_repeat(1, (), rounds=told)) == 2


def test_what_reaching_the_target_takes_counts_up_to_that_round(tmp_path: Path) -> None:
    study = section(tiny(tmp_path)).study
    repeat = a_repeat(1, (0.3, 0.8, 0.9))
    found = {name: named(name, study).of(repeat) for name in (
        "rounds_to_target", "seconds_to_target", "bytes_to_target", "cpu_to_target", "bytes", "joules"
    )}  # fmt: skip
    assert found == {
        "rounds_to_target": 2.0,
        "seconds_to_target": 1.0,
        "bytes_to_target": 4.0,
        "cpu_to_target": 0.5,
        "bytes": 6.0,
        "joules": None,
    }
    assert named("accuracy", study).of(a_repeat(1, (0.9,), state="failed", reason="x")) is None


@pytest.mark.parametrize("every", [1, 5])
def test_what_a_target_takes_is_known_to_an_evaluation_of_its_own_cell(tmp_path: Path, every: int) -> None:
    part = section(tiny(tmp_path, more=f"[experiment.evaluation]\nevery = {every}"))
    found = records(part, lambda _cell, _seed: 0.9)
    slow = found["clients-8"]
    longer = [
        repeat.model_copy(
            update={"rounds": tuple(r.model_copy(update={"seconds": 12.8}) for r in repeat.rounds)}
        )
        for repeat in slow.repeats
    ]
    own = summary(part, found | {"clients-8": slow.model_copy(update={"repeats": tuple(longer)})})
    fast, late = own.rows
    steps = {name: [row.step(named(name, part.study)) for row in (fast, late)] for name in (
        "rounds_to_target", "seconds_to_target", "bytes_to_target", "accuracy", "rounds"
    )}  # fmt: skip
    assert steps["rounds_to_target"] == [every, every]
    assert steps["seconds_to_target"] == pytest.approx([0.5 * every, 12.8 * every])
    assert steps["bytes_to_target"] == [2 * every, 2 * every]
    assert steps["accuracy"] == steps["rounds"] == [0, 0]
    (whole,) = strata(own, own.factors[0])
    (effect,) = effects_of(own, whole, named("seconds_to_target", part.study))
    assert effect.difference.mean == pytest.approx(3 * 12.3)  # in each of the three repeats
    spread = np.hypot(0.5 * every, 12.8 * every) / np.sqrt(12)
    assert effect.difference.half == pytest.approx(stats.t.ppf(0.975, 2) * spread / np.sqrt(3))
    assert effect.difference.p is not None and effect.difference.p > 0
    assert effect.verdict == ("difference" if every == 1 else "no difference shown")


def _in_rounds(record: CellRecord, **changes: float) -> CellRecord:
    """The same, with other figures in all its rounds."""
    rounds = {r.seed: tuple(x.model_copy(update=changes) for x in r.rounds) for r in record.repeats}
    repeats = tuple(r.model_copy(update={"rounds": rounds[r.seed]}) for r in record.repeats)
    return record.model_copy(update={"repeats": repeats})


def test_what_runs_that_end_early_take_is_known_to_an_evaluation_alone(tmp_path: Path) -> None:
    path = tiny(tmp_path, more="[experiment.evaluation]\nevery = 5")
    names = ("rounds", "seconds", "bytes", "cpu_seconds", "joules")
    asked = ", ".join(f'"{name}"' for name in (*names, "seconds_to_target"))
    path.write_text(path.read_text().replace('"accuracy", "rounds_to_target"', asked))
    whole = section(path)
    path.write_text(path.read_text() + "\n[experiment.stop]\naccuracy = 0.8\n")
    part = section(path)
    found = records(part, lambda _cell, _seed: 0.9)
    found |= {"clients-8": _in_rounds(found["clients-8"], seconds=1.0)}
    own = summary(part, found)
    late = own.rows[1]
    measured = [r.model_copy(update={"joules": 90.0}) for r in found["clients-8"].repeats]
    late = replace(late, record=found["clients-8"].model_copy(update={"repeats": tuple(measured)}))
    steps = [late.step(named(name, part.study)) for name in names]
    assert steps == pytest.approx([5, 5 * 1.0, 5 * 2.0, 5 * 0.25, 5 * 30.0])
    assert summary(whole, found).rows[1].step(named("seconds", part.study)) == 0
    differences = {e.measure.name: e.difference for e in effects(own)}
    run, target = differences["seconds"], differences["seconds_to_target"]  # the very same numbers
    assert (run.mean, run.half, run.p) == (target.mean, target.half, target.p)
    assert run.mean == pytest.approx(1.5) and run.half is not None and run.half > run.mean


@pytest.mark.parametrize(
    ("more", "verdict"), [(0, "no difference shown"), (19, "no difference shown"), (20_000, "difference")]
)
def test_bytes_that_accounts_alone_may_differ_by_are_no_difference(
    tmp_path: Path, more: int, verdict: str
) -> None:
    path = tiny(tmp_path)
    path.write_text(path.read_text().replace('"accuracy", "rounds_to_target"', '"bytes", "round_bytes"'))
    part = section(path)
    found = records(part, lambda _cell, _seed: 0.9)
    found |= {"clients-8": _in_rounds(found["clients-8"], bytes_up=1_000_000 + more)}
    own = summary(part, found)
    assert [own.rows[0].step(measure) for measure in own.outcomes] == pytest.approx(
        [3 * 4 * 100 / 1e6, 4 * 100 / 1e6]  # four updates in each of three rounds
    )
    assert [effect.verdict for effect in effects(own)] == [verdict] * 2


# --- the report


def _report(folder: Path, study: Section, accuracy: object = None) -> page.Report:
    def rising(cell: Cell, seed: int) -> float:
        return {"clients-2": 0.9, "clients-8": 0.7}.get(cell.id, 0.95) + seed / 1000

    store = Store(folder / "out" / study.key)
    for record in records(study, accuracy or rising).values():  # type: ignore[arg-type]
        store.write(record)
    return page.gather(study.study, [study], folder / "out", "lab study repeat {cell} --seed {seed}")


def test_the_page_is_self_contained_and_everything_is_told_beside_it(tmp_path: Path) -> None:
    path = tiny(tmp_path, more="centralized = true")
    path.write_text(path.read_text() + PUBLISHED)
    report = _report(tmp_path, section(path))
    (part,) = report.parts
    crowded = replace(part, plots=[replace(plot, left_out="In the table alone: 144.") for plot in part.plots])
    written = page.write(replace(report, parts=[crowded]), tmp_path / "made").read_text()
    page.write_tables([section(path)], tmp_path / "out", tmp_path / "made")
    assert not re.search(r'(src|href)="(?!#)', written)
    for text in (
        "in one place",
        "A paper",
        "lab study repeat tiny/clients-2 --seed 1",
        "Hedges",
        "not measured: ",
        "In the table alone: 144.",
    ):
        assert text in written
    figures = sorted(path.name for path in (tmp_path / "made/figures").iterdir())
    assert figures == [
        f"tiny-{name}.{kind}" for name in ("by-clients", "learning") for kind in ("png", "svg")
    ]
    markdown = (tmp_path / "made/report.md").read_text()
    assert all(f"figures/{name}" in markdown for name in figures if name.endswith("png"))
    assert markdown.count("In the table alone: 144.") == len(part.plots)
    rows = list(csv.DictReader((tmp_path / "made/repeats.csv").open()))
    assert len(rows) == 9 and {row["state"] for row in rows} == {"finished"}
    cells = list(csv.DictReader((tmp_path / "made/cells.csv").open()))
    row = next(row for row in cells if row["cell"] == "clients-2" and row["measure"] == "accuracy")
    assert (float(row["mean"]), row["n"]) == (pytest.approx(90.2), "3")


def test_markdowns_tables_have_as_many_cells_in_every_row(tmp_path: Path) -> None:
    report = _report(tmp_path, section(tiny(tmp_path)))
    page.write(report, tmp_path / "made")
    lines = (tmp_path / "made/report.md").read_text().splitlines()
    for above, line in pairwise(lines):
        if above.startswith("|") and line.startswith("|"):
            assert above.count("|") == line.count("|")
    assert sum(line.startswith("| ---") for line in lines) == 3


def test_federated_is_compared_with_centralized_seed_by_seed(tmp_path: Path) -> None:
    part = section(tiny(tmp_path, more="centralized = true"))
    found = summary(part, records(part, lambda cell, seed: (0.4 if cell.levels else 0.8) + seed / 1000))
    share = found.share_of_centralized(found.rows[0], found.outcomes[0])
    assert share is not None
    assert share.values == pytest.approx([100 * (0.4 + s / 1000) / (0.8 + s / 1000) for s in (1, 2, 3)])


def test_words_claim_a_difference_or_say_what_is_not_ruled_out(
    tmp_path: Path,
) -> None:
    part = section(tiny(tmp_path))
    heights = {"clients-2": 0.9, "clients-8": 0.6}
    apart = summary(part, records(part, lambda cell, seed: heights[cell.id] * (1 + seed / 1e6)))
    told = " ".join(words.of_section(apart))
    assert "Against 2, in each of 3 repeats: 8 is 30.00 points lower." in told
    same = summary(part, records(part, lambda _cell, seed: 0.7 + seed / 100))
    told = " ".join(words.of_section(same))
    assert "8 is the same as 2 in every repeat." in told and "lower" not in told
    noise = {("clients-8", 1): 0.03, ("clients-8", 2): -0.02}
    none = summary(part, records(part, lambda cell, seed: 0.7 + noise.get((cell.id, seed), 0.0)))
    told = " ".join(words.of_section(none))
    assert "Against 2 no difference is shown for 8; seed by seed (95 % intervals, n = 3)" in told
    each = np.array([3.0, -2.0, 0.0])
    low, high = stats.t.interval(0.95, 2, each.mean(), stats.sem(each))
    assert f"anything from {low:.2f} to {high:.2f} points".replace("-", "−") in told and "lower" not in told


def test_the_same_in_every_repeat_is_said_of_values_and_not_of_their_mean(tmp_path: Path) -> None:
    part = section(tiny(tmp_path))
    accuracy = named("accuracy", part.study)
    many = interval([90.0, 90.01] * 50)  # whose interval is narrower than the digits that are told
    assert "same" not in words.shown(accuracy, many)
    assert "to these digits the same in all 2" in words.shown(accuracy, interval([90.001, 90.002]))
    own = summary(part, records(part, lambda _cell, seed: 0.9 + seed / 1000))
    effect = next(effect for effect in effects(own) if effect.measure.name == "accuracy")
    assert effect.difference.learned
    apart = paired(_by_seed([0.0] * 100), _by_seed([1.0, 1.01] * 50))
    assert not claims._always(replace(effect, difference=apart))
    known = paired(_by_seed([0.0] * 5), _by_seed([1.0] * 5))
    assert claims._always(replace(effect, difference=known))
    rounded = paired(_by_seed([0.0] * 5), _by_seed([1.0] * 5), (0.1, 0.1))
    assert not claims._always(replace(effect, difference=rounded))


def test_effects_are_ranked_by_size_and_each_factor_is_there_once_an_outcome(tmp_path: Path) -> None:
    part = section(tiny(tmp_path, "[2, 4, 8]"))
    heights = {"clients-2": 0.9, "clients-4": 0.85, "clients-8": 0.5}
    table = ranked([summary(part, records(part, lambda cell, seed: heights[cell.id] + seed / 1000))])
    (effect,) = table["test accuracy"]
    assert (effect.reference, effect.level) == ("2", "8")
    assert effect.difference.mean == pytest.approx(-40)


def test_a_large_difference_that_seeds_share_is_found_where_means_overlap(tmp_path: Path) -> None:
    part = section(tiny(tmp_path))
    jitter = {1: 0.001, 2: 0.0, 3: -0.001}
    easy = {"clients-2": 0.0, "clients-8": 0.02}
    found = records(part, lambda cell, seed: 0.3 + seed / 5 + easy[cell.id] + easy[cell.id] * jitter[seed])
    (effect,) = [e for e in effects(summary(part, found)) if e.measure.name == "accuracy"]
    assert (effect.difference.a.high or 0) > (effect.difference.b.low or 0)  # means overlap widely
    assert effect.verdict == "difference" and effect.difference.mean == pytest.approx(2, abs=0.01)


def test_other_levels_are_allowed_for_and_that_is_said(tmp_path: Path) -> None:
    part = section(tiny(tmp_path, "[2, 4, 8, 16]"))
    higher = {"clients-4": (0.016, 0.02, 0.024)}
    own = summary(part, records(part, lambda cell, seed: 0.5 + higher.get(cell.id, (0.0,) * 3)[seed - 1]))
    effect = next(e for e in effects(own) if e.level == "4" and e.measure.name == "accuracy")
    p = stats.ttest_rel([0.016, 0.02, 0.024], [0.0] * 3).pvalue
    assert effect.difference.p == pytest.approx(p)
    assert effect.adjusted == pytest.approx(3 * p) and effect.verdict == "difference"
    less = {"clients-4": (0.012, 0.02, 0.028)}
    own = summary(part, records(part, lambda cell, seed: 0.5 + less.get(cell.id, (0.0,) * 3)[seed - 1]))
    told = " ".join(words.of_section(own))
    assert "Against 2 no difference is shown for 4 once 3 comparisons are allowed for" in told
    assert "8 and 16 are each the same as 2 in every repeat" in told


def test_an_average_over_other_factors_says_where_it_hides_unlike_ones(tmp_path: Path) -> None:
    part = _two_factors(tmp_path)
    lower = {("8", "0.1"): 0.3}  # what 8 clients cost, by the rate
    found = records(
        part,
        lambda cell, seed: (
            0.9 - (1 + seed / 1e6) * lower.get((cell.levels["clients"], cell.levels["rate"]), 0.0)
        ),
    )
    told = " ".join(words.of_section(summary(part, found)))
    assert "Against 2, in each of 3 repeats: 8 is 15.00 points lower." in told
    assert (
        "That of 8 is an average of unlike ones, from −30.00 with rate 0.1 to 0.00 points with rate 0.2."
        in told
    )
    (effect,) = [e for e in ranked([summary(part, found)])["test accuracy"] if e.factor.name == "clients"]
    assert "(2 → 8: −15.00 points on average; study tiny)" in claims.of_ranking({"x": [effect]})[0]
    alike = summary(part, records(part, lambda cell, _: 0.9 - 0.1 * (cell.levels["clients"] == "8")))
    assert "unlike" not in " ".join(words.of_section(alike))


def test_times_that_vary_by_more_than_they_are_long_are_said_to_say_nothing(tmp_path: Path) -> None:
    part = section(tiny(tmp_path))
    quiet = records(part, lambda _cell, seed: 0.9 + seed / 1000)
    assert "read no speed" not in " ".join(words.of_section(summary(part, quiet)))
    record = quiet["clients-2"]
    slow = record.repeats[0].model_copy(
        update={"rounds": tuple(r.model_copy(update={"seconds": 50.0}) for r in record.repeats[0].rounds)}
    )
    noisy = quiet | {"clients-2": record.model_copy(update={"repeats": (slow, *record.repeats[1:])})}
    told = " ".join(words.of_section(summary(part, noisy)))
    assert "Times by the real clock: 1 of 2 have an interval wider than themselves" in told


def test_each_factor_has_a_table_of_its_levels_and_their_differences(tmp_path: Path) -> None:
    part = _two_factors(tmp_path)
    lower = {"8": (0.12, 0.08, 0.1)}
    found = records(
        part,
        lambda cell, seed: 0.9 + seed / 100 - lower.get(cell.levels["clients"], (0.0,) * 3)[seed - 1],
    )
    own = summary(part, found)
    (whole,) = strata(own, own.factors[0])
    title, table = grids.of_factor(own, whole) or ("", None)
    assert title.startswith("By clients, averaged over the other factors: mean ± half the 95 % interval (n)")
    assert table is not None and table.head[:3] == ("clients", "test accuracy, %", "against 2")
    half = stats.t.ppf(0.975, 2) * np.std([12, 8, 10], ddof=1) / np.sqrt(3)
    assert table.rows[0][:3] == ("2", f"92.00 ± {stats.t.ppf(0.975, 2) / np.sqrt(3):.2f} (3)", "–")
    assert table.rows[1][0] == "8" and table.rows[1][2] == f"−10.00 ± {half:.2f} (3) *"


def test_a_study_cut_down_to_one_cell_tells_its_outcomes(tmp_path: Path) -> None:
    part = section(tiny(tmp_path, "[2]"))
    (said,) = words.of_section(summary(part, records(part, lambda _cell, _seed: 0.9)))
    assert said == (
        "Test accuracy: 90.00 % (the same in all 3 repeats). "
        "Rounds to 80 %: 3.0 (95 % interval 2.3 to 3.7, n = 3)."  # known to a round alone, as in the table
    )


def test_tasks_are_neither_averaged_nor_compared_with_each_other(tmp_path: Path) -> None:
    path = tiny(tmp_path)
    path.write_text(path.read_text() + OTHER_TASKS)
    part = section(path)
    heights = {"one": 0.9, "two": 0.4}
    own = summary(part, records(part, lambda cell, seed: heights[cell.levels["kind"]] + seed / 1000))
    told = words.of_section(own)
    assert any(said.startswith("Test accuracy by clients, one is 90.2") for said in told), told
    assert any(said.startswith("Test accuracy by clients, two is 40.2") for said in told), told
    assert any(said.endswith("at two: different tasks, which are not compared.") for said in told), told
    assert {(e.factor.name, e.stratum.name) for e in effects(own)} == {("clients", "one"), ("clients", "two")}
    assert set(ranked([own])) == {
        "test accuracy (digits)",
        "test accuracy (mnist)",
        "rounds to 80 %",
    }
    assert [title for title, _ in curves._panels(own)] == ["kind: one", "kind: two"]


def test_a_task_on_two_clocks_is_told_by_its_clock_and_one_task_alone_is_not_unlike_another(
    tmp_path: Path,
) -> None:
    path = tiny(tmp_path, "[2]")
    clock = '[[factors]]\nname = "clock"\nfield = "machines.clock"\nlevels = ["real", "virtual"]\n'
    machines = "[experiment.machines]\nsamples_per_second = 1000\n"
    path.write_text(f"{path.read_text()}{OTHER_TASKS}{clock}{machines}")
    part = section(path)
    own = summary(part, records(part, lambda _cell, _seed: 0.9))
    same = "90.00 % (the same in all 3 repeats)"
    both = (f"{same} at {task}, {which} clock" for task in ("one", "two") for which in ("real", "virtual"))
    unlike = ": different tasks, which are not compared."
    told = words.of_section(own)
    assert f"Test accuracy is {claims.listed(list(both))}{unlike}" in told
    kinds = tiny(tmp_path, "[2]")
    kinds.write_text(kinds.read_text() + OTHER_TASKS)
    part = section(kinds)
    found = records(part, lambda _cell, _seed: 0.9)
    told = words.of_section(summary(part, found))
    assert f"Test accuracy is {same} at one and {same} at two{unlike}" in told
    alone = {name: record for name, record in found.items() if record.levels["kind"] == "one"}
    assert f"Test accuracy is {same} at one." in words.of_section(summary(part, alone))


def _two_factors(folder: Path, more: str = "") -> Section:
    path = tiny(folder, more=more)
    other = '\n[[factors]]\nname = "rate"\nfield = "training.learning_rate"\nlevels = [0.1, 0.2]\n'
    path.write_text(path.read_text() + other)
    return section(path)


def test_what_is_reached_of_training_in_one_place_is_said_of_each_baseline_once(tmp_path: Path) -> None:
    part = section(tiny(tmp_path, more="centralized = true"))
    found = records(part, lambda cell, seed: (0.4 if cell.levels else 0.8) + seed / 1000)
    told = " ".join(words.of_section(summary(part, found)))
    low, high = stats.t.interval(
        0.95,
        2,
        *(f([100 * (0.4 + s / 1000) / (0.8 + s / 1000) for s in (1, 2, 3)]) for f in (np.mean, stats.sem)),
    )
    assert f"federated training reaches 50.1 % ({low:.1f} to {high:.1f}) in each of the 2 cells." in told
    same = summary(part, records(part, lambda _cell, seed: 0.8 + seed / 1000))
    assert "reaches exactly 100 % in every repeat in each of the 2 cells" in " ".join(words.of_section(same))


def test_a_percent_of_training_in_one_place_ends_at_none_and_at_all_that_can_be(tmp_path: Path) -> None:
    part = section(tiny(tmp_path, more="centralized = true"))
    ends = {1: 0.1, 2: 0.5, 3: 0.9}
    own = summary(part, records(part, lambda cell, seed: ends[seed] if cell.levels else 0.8))
    share = own.share_of_centralized(own.rows[0], own.outcomes[0])
    assert share is not None and (share.low or 0.0) < 0 and (share.high or 0.0) > 125
    assert "reaches 62.5 % (0.0 to 125.0, no difference shown)" in " ".join(words.of_section(own))
    accuracy, gain = (named(name, part.study) for name in ("accuracy", "metrics.r2"))
    assert accuracy.possible_share(990.0, [10.0, 90.0]) == pytest.approx((1000 + 100 / 0.9) / 2)
    assert gain.possible_share(-61.1, [0.5]) == -61.1  # what it can be only its task knows
    assert words._share(interval([-0.5, -0.7]), gain, interval([0.5])).startswith("−0.6 % (−1.9 to 0.7)")


def _unlike(part: Section, found: dict[str, CellRecord], examples: int) -> Summary:
    """With other numbers of examples a round in the cell of two clients."""
    record = found["clients-2"]
    other = [
        repeat.model_copy(
            update={"rounds": tuple(r.model_copy(update={"num_examples": examples}) for r in repeat.rounds)}
        )
        for repeat in record.repeats
    ]
    return summary(part, found | {"clients-2": record.model_copy(update={"repeats": tuple(other)})})


@pytest.mark.parametrize(("examples", "share"), [(100, True), (96, True), (94, False), (106, False)])
def test_what_saw_other_numbers_of_examples_is_no_percent_of_training_in_one_place(
    tmp_path: Path, examples: int, share: bool
) -> None:
    part = section(tiny(tmp_path, more="centralized = true"))
    own = _unlike(part, records(part, lambda _cell, seed: 0.8 + seed / 1000), examples)
    told = " ".join(words.of_section(own))
    assert (own.share_of_centralized(own.rows[0], own.outcomes[0]) is not None) == share
    assert (grids.of_cells(own).rows[0][-1] == "–") != share
    assert ("as many of them (" in told) == (examples != 96)
    assert ("as many of them to within 4.0 % (" in told) == (examples == 96)
    off = "fewer" if examples < 100 else "more"
    said = f"where clients saw other numbers of examples: up to 6 % {off} with clients 2."
    assert (f"No % of training in one place {said}" in told) != share
    alone = replace(own, rows=own.rows[:1])
    assert ("No % of training in one place" in " ".join(words.of_section(alone))) != share


@pytest.mark.parametrize("stop", ["accuracy = 0.8", "patience = 2"])
def test_runs_that_end_early_are_no_percent_of_training_in_one_place(tmp_path: Path, stop: str) -> None:
    path = tiny(tmp_path, more="centralized = true")
    path.write_text(path.read_text() + f"\n[experiment.stop]\n{stop}\n")
    part = section(path)
    found = records(part, lambda cell, _seed: 0.9 if cell.levels else 0.7)
    own = summary(part, found)
    told = " ".join(words.of_section(own))
    assert "as many of them" not in told and "% of centralized" not in grids.of_cells(own).head
    assert own.learned is None and "there is no % of centralized." in told
    table, last = ranked([own]), "what they have learned by then is not compared"
    if stop.startswith("accuracy"):
        assert "Runs end once they reach 80 %, so" in told and last in told
        assert "est accuracy" not in told and "test accuracy" not in table
        assert "test accuracy, %" in grids.of_cells(own).head and curves.learning(own) is not None
        until = "0.3 with clients 2 (in one place 0.3, reached in 0 of 3); 0.3 with clients 8"
        assert f"Thousands of examples until then: {until}" in told
    else:
        assert "Runs end when they no longer improve, so there" in told and last not in told
        assert "test accuracy" in table and "(in one place 0.3)" in told


def _diverged(record: CellRecord, *seeds: int) -> CellRecord:
    failed = {"state": "failed", "reason": "training diverged"}
    repeats = (r.model_copy(update=failed) if r.seed in seeds else r for r in record.repeats)
    return record.model_copy(update={"repeats": tuple(repeats)})


def test_what_those_that_did_not_fail_have_learned_is_not_compared(tmp_path: Path) -> None:
    path = tiny(tmp_path, more="centralized = true")
    path.write_text(path.read_text().replace('name = "clients"', 'name = "clients"\nchoice = true', 1))
    part = section(path)
    found = records(part, lambda cell, seed: (0.5 if cell.id == "clients-2" else 0.9) + seed / 1000)
    own = summary(part, found | {"clients-8": _diverged(found["clients-8"], 2)})
    told = " ".join(words.of_section(own))
    assert "Measured in some repeats alone: 8 (2 of 3). 8 cannot be compared with 2: not every" in told
    assert "better" not in told and "exactly 100" not in told
    assert {e.verdict for e in effects(own)} == {"not in every repeat"}
    assert grids.of_cells(own).rows[1][1:3] == ("90.20 (2 of 3)", "3.0 (2 of 3)")
    cost = named("bytes", part.study)  # what it cost is not of what was learned
    assert own.rows[1].of(cost).whole and own.rows[1].of(cost).n == 2


@pytest.mark.parametrize("seeds", [(2,), (1, 2, 3)])
def test_what_failed_at_one_combination_is_not_averaged_away(tmp_path: Path, seeds: tuple[int, ...]) -> None:
    part = _two_factors(tmp_path)
    heights = {"0.1": 0.9, "0.2": 0.5}
    found = records(part, lambda cell, seed: heights[cell.levels["rate"]] + seed / 1000)
    bad = "clients-8_rate-0p1"  # the easy one of one level
    own = summary(part, found | {bad: _diverged(found[bad], *seeds)})
    learned = [e for e in effects(own) if e.measure.name == "accuracy"]
    assert [e.verdict for e in learned] == ["not in every repeat"] * 2  # clients, rate
    told = " ".join(words.of_section(own))
    assert "Test accuracy by clients (averaged over the other factors) is 70.20 %" in told
    assert "where every level has been run" not in told
    missed = "Not measured at every combination of the other factors in any repeat: 8."
    assert (missed in told) == (len(seeds) == 3)


def test_a_percent_of_training_in_one_place_is_told_of_all_repeats_or_named_as_of_some(
    tmp_path: Path,
) -> None:
    part = section(tiny(tmp_path, more="centralized = true"))
    found = records(part, lambda _cell, seed: 0.8 + seed / 1000)
    own = summary(part, found | {"clients-8": _diverged(found["clients-8"], 2)})
    assert [row[-2] for row in grids.of_cells(own).rows] == ["100.0 ± 0.0", "100.0 (2 of 3)", "100"]
    assert (
        "federated training reaches exactly 100 % in every repeat with clients 2; "
        "100.0 % (mean of 2 of 3 repeats alone) with clients 8."
    ) in " ".join(words.of_section(own))


def test_a_baseline_that_failed_is_not_100_percent_of_itself(tmp_path: Path) -> None:
    path = tiny(tmp_path, more="centralized = true")
    path.write_text(path.read_text() + OTHER_TASKS)
    part = section(path)
    found = records(part, lambda _cell, seed: 0.9 + seed / 1000)
    bad = "centralized_clients-2_kind-two"
    own = summary(part, found | {bad: _diverged(found[bad], 1, 2, 3)})
    *_, ours, theirs = (row[-2] for row in grids.of_cells(own).rows)
    assert (ours, theirs) == ("100", "–")


def test_a_gap_and_a_failure_are_told_and_never_silent(tmp_path: Path) -> None:
    part = section(tiny(tmp_path))
    found = records(part, lambda _cell, _seed: 0.9)
    failed = a_repeat(2, (0.3,), state="failed", reason="training diverged")
    bad = found["clients-2"].model_copy(update={"repeats": (found["clients-2"].repeats[0], failed)})
    store = Store(tmp_path / "out/tiny")
    store.write(bad)
    report = page.gather(part.study, [part], tmp_path / "out", "{cell}{seed}")
    told = " ".join(report.parts[0].words)
    assert "Not run: clients 8." in told and "Failed: clients 2 seed 2: training diverged." in told
    assert report.state == "1 run of 1 cell finished, 1 failed, 1 of 2 cells not run"
    (gap,) = report.trouble
    assert gap.startswith(
        "1 of 2 cells have not been run (clients 8), cells have 2 of 3 repeats, 1 run failed"
    )
    assert "Why: still under way, or ended from outside" in gap


def test_a_grid_run_in_part_is_averaged_only_where_every_level_has_been_run(tmp_path: Path) -> None:
    part = _two_factors(tmp_path)
    heights = {"0.1": 0.9, "0.2": 0.5}
    found = records(part, lambda cell, seed: heights[cell.levels["rate"]] + seed / 1000)
    del found["clients-8_rate-0p1"]  # the easy one of one level
    own = summary(part, found)
    (whole,) = strata(own, own.factors[0])
    assert [whole.level(name, own.outcomes[0]).mean for name in ("2", "8")] == [
        pytest.approx(50.2),
        pytest.approx(50.2),
    ]
    told = " ".join(words.of_section(own))
    assert "averaged over the other factors, where every level has been run" in told
    assert "Not run: clients 8, rate 0.1." in told


def test_parts_that_were_not_run_are_named_with_why(tmp_path: Path) -> None:
    part = section(tiny(tmp_path))
    other = Section(key="other", study=part.study.model_copy(update={"name": "other", "title": "Another"}))
    for record in records(part, lambda _cell, _seed: 0.9).values():
        Store(tmp_path / "out/tiny").write(record)
    Store(tmp_path / "out/other").leave(Unfinished(why="interrupted", at=0.0))
    report = page.gather(part.study, [part, other], tmp_path / "out", "{cell}{seed}")
    assert report.coverage is not None
    assert report.coverage.rows == (
        ("tiny", "2 of 2", "3 of 3", "–", ""),
        ("Another", "0 of 2", "0 of 3", "–", "interrupted (1970-01-01 00:00 UTC)"),
    )
    assert report.state == "6 runs of 2 cells finished, 0 failed, 2 of 4 cells not run; 1 of 2 studies begun"
    assert ">interrupted (1970" in page.write(report, tmp_path / "made").read_text()
    assert "| interrupted (1970" in (tmp_path / "made/report.md").read_text()


def test_a_target_that_some_repeats_miss_is_never_compared(tmp_path: Path) -> None:
    part = section(tiny(tmp_path, "[2, 4, 8]"))
    reach = {("clients-2", 1), ("clients-2", 2), ("clients-4", 1), ("clients-4", 2), ("clients-4", 3)}
    own = summary(part, records(part, lambda cell, seed: 0.9 if (cell.id, seed) in reach else 0.5))
    told = next(said for said in words.of_section(own) if said.startswith("Rounds to 80 %"))
    assert "is 3.0 (95 % interval 2.3 to 3.7, n = 3) at 4. Reached in some repeats alone: 2 (2 of 3)." in told
    assert "Not reached in any repeat: 8." in told
    assert "4 cannot be compared with 2: not every repeat got there." in told
    assert "Against" not in told and "goes from" not in told
    (whole,) = strata(own, own.factors[0])
    _, table = grids.of_factor(own, whole) or ("", None)
    assert table is not None and [row[3:] for row in table.rows] == [
        ("3.0 (2 of 3)", "–"),
        (f"3.0 ± {stats.t.ppf(0.975, 2) / np.sqrt(12 * 3):.1f} (3)", "–"),
        ("not in 3", "–"),
    ]
    lines = list(csv.DictReader(grids.effects_csv([own], TASKS).splitlines()))
    missed = [line for line in lines if line["outcome"] == "rounds_to_target"]
    assert [line["verdict"] for line in missed] == ["not in every repeat"] * 2
    assert not any(line[name] for line in missed for name in ("difference", "low", "high", "p"))
    assert "rounds to 80 %" not in ranked([own])


def test_a_mean_of_those_that_reached_a_target_is_drawn_hollow_and_no_line_leads_there(
    tmp_path: Path,
) -> None:
    path = tiny(tmp_path, "[2, 4, 8]")
    path.write_text(
        path.read_text().replace('field = "clients.count"', 'field = "clients.count"\nscale = "log"')
    )
    part = section(path)
    own = summary(part, records(part, lambda cell, seed: 0.5 if (cell.id, seed) == ("clients-4", 1) else 0.9))
    axes, (factor,) = Figure().subplots(), own.factors
    plots._levels(axes, own, factor, named("rounds_to_target", part.study))
    (bars,) = axes.containers
    assert [np.isnan(y) for y in bars.lines[0].get_ydata()] == [False, True, False]
    hollow = [line for line in axes.lines if line.get_markerfacecolor() == "white"]
    assert [(list(line.get_xdata()), list(line.get_ydata())) for line in hollow] == [([4.0], [3.0])]
    seeds = [line for line in axes.lines if line.get_linewidth() == 0.7]
    assert sum(bool(np.isnan(line.get_ydata()).any()) for line in seeds) == 1
    drawn = plots.effect(own, factor)
    assert drawn is not None and "hollow: the mean of those repeats alone" in drawn.legend
    assert "4 (2 of 3)" in " ".join(words.of_section(own))


def test_updates_cut_off_by_design_are_no_harm(tmp_path: Path) -> None:
    path = tiny(tmp_path)
    path.write_text(
        path.read_text()
        .replace('name = "clients"', 'name = "clients"\nchoice = true', 1)
        .replace('"accuracy", "rounds_to_target"', '"accuracy", "cut"')
    )
    part = section(path)
    found = records(part, lambda _cell, seed: 0.9 + seed / 1000)
    rounds = {
        r.seed: [x.model_copy(update={"late": 5}) for x in r.rounds] for r in found["clients-8"].repeats
    }
    cut = [r.model_copy(update={"rounds": tuple(rounds[r.seed])}) for r in found["clients-8"].repeats]
    found["clients-8"] = found["clients-8"].model_copy(update={"repeats": tuple(cut)})
    told = " ".join(words.of_section(summary(part, found)))
    assert "Against 2, in each of 3 repeats: 8 is 5.00 higher." in told
    assert "worse" not in told and "Not shown to help or to harm in any outcome: 8." in told


def test_where_levels_are_a_choice_it_is_said_which_help_and_which_do_not(tmp_path: Path) -> None:
    path = tiny(tmp_path, "[2, 4, 8, 16]")
    path.write_text(path.read_text().replace('name = "clients"', 'name = "clients"\nchoice = true', 1))
    part = section(path)
    heights = {"clients-2": 0.6, "clients-4": 0.9, "clients-8": 0.3, "clients-16": 0.6005}
    noise = {("clients-16", 1): 0.003, ("clients-16", 2): -0.002}
    levels = records(
        part, lambda cell, seed: heights[cell.id] * (1 + seed / 1e6) + noise.get((cell.id, seed), 0)
    )
    found = summary(part, levels)
    told = " ".join(words.of_section(found))
    assert "Shown to do better than 2: 4 in test accuracy." in told
    assert "Shown to do worse than 2: 8 in test accuracy." in told
    assert "Not shown to help or to harm in any outcome: 16." in told
    assert "nothing here is shown to help" not in told
    assert "4 reached 80 % in 3 of 3 repeats, 2 in 0 of 3: what that takes is not compared." in told
    assert "8 reached 80 %" not in told
    none = summary(part, records(part, lambda _cell, seed: 0.7 + seed / 1000))
    assert "So nothing here is shown to help over 2." in " ".join(words.of_section(none))


def test_a_remedy_that_missed_the_target_once_is_not_said_to_do_no_harm(tmp_path: Path) -> None:
    path = tiny(tmp_path, "[2, 4, 8]")
    path.write_text(path.read_text().replace('name = "clients"', 'name = "clients"\nchoice = true', 1))
    part = section(path)
    ends = {("clients-8", 1): 0.79, ("clients-4", 1): 0.81}
    told = " ".join(
        words.of_section(summary(part, records(part, lambda cell, seed: ends.get((cell.id, seed), 0.9))))
    )
    assert "Not shown to help or to harm in any outcome: 4." in told
    assert "8 reached 80 % in 2 of 3 repeats, 2 in 3 of 3: what that takes is not compared." in told


def test_an_interval_is_told_and_drawn_as_far_as_its_values_can_lie(tmp_path: Path) -> None:
    part = section(tiny(tmp_path))
    few = interval([0.1, 0.9])
    assert (few.low or 0.0) < 0 and (few.high or 0.0) > 1
    iou, loss = named("metrics.mean_iou", part.study), named("loss", part.study)
    assert words.shown(iou, few) == "0.500 (95 % interval 0.000 to 1.000, n = 2)"
    assert "interval −4.5825 to 5.5825" in words.shown(loss, few)  # what is a loss, only its task knows
    assert "interval 0.0 to 5.6" in words.shown(named("seconds", part.study), few)
    accuracy = named("accuracy", part.study)
    assert [accuracy.possible_apart(end) for end in (-134.05, 50.0, 135.82)] == [-100, 50, 100]
    assert [iou.possible_apart(end) for end in (-1.5, 1.5)] == [-1, 1]
    assert [loss.possible_apart(end) for end in (-1.5, 1.5)] == [-1.5, 1.5]
    found = records(part, lambda _cell, seed: 0.5 + seed / 10)
    own = summary(part, {name: r.model_copy(update={"repeats": r.repeats[:2]}) for name, r in found.items()})
    axes = Figure().subplots()
    curves._curve(axes, own.rows[0], "accuracy", "rounds", 100, 0, "federated")
    (band,) = axes.collections
    heights = np.asarray(band.get_paths()[0].vertices)[:, 1]
    assert heights.min() >= 0 and heights.max() == 100


@pytest.mark.parametrize("clock", ["real", "virtual"])
def test_a_time_says_which_clock_it_is_of_in_words_and_in_figures(tmp_path: Path, clock: str) -> None:
    path = tiny(tmp_path)
    body = path.read_text().replace('"accuracy", "rounds_to_target"', '"seconds", "round_seconds"')
    path.write_text(f'{body}\n[experiment.machines]\nclock = "{clock}"\nsamples_per_second = 1000\n')
    part = section(path)
    found = records(part, lambda _cell, seed: 0.7 + seed / 100)
    own = summary(part, found)
    drawn = plots.effect(own, own.factors[0])
    assert drawn is not None and f"time ({clock} clock), s" in drawn.inline
    for told in (" ".join(words.of_section(own)), drawn.text):
        assert f"ime ({clock} clock)" in told and "ime of a round (real clock)" in told
    by_time = Section(key=part.key, study=part.study.model_copy(update={"axis": "seconds"}))
    learned = curves.learning(summary(by_time, found))
    assert learned is not None and f"over time, s ({clock} clock)" in learned.text


def test_every_outcome_is_drawn_and_series_without_room_are_named_below(tmp_path: Path) -> None:
    path = tiny(tmp_path)
    five = '"accuracy", "loss", "round_seconds", "bytes", "cpu_seconds", "cut"'
    body = path.read_text().replace('"accuracy", "rounds_to_target"', five)
    path.write_text(body + OTHER_BATCHES.replace("64]", "64, 80, 96, 112, 128, 144, 160]"))
    part = section(path)
    own = summary(part, records(part, lambda _cell, seed: 0.8 + seed / 100))
    drawn = plots.effect(own, own.factors[0])
    assert drawn is not None
    assert drawn.left_out == "In the table alone: 144; 160. 0 in every run: clients cut off a round."
    for label in ("test accuracy, %", "test loss", "bytes moved", "CPU time, s"):
        assert label in drawn.inline


def test_runs_that_ended_before_others_of_their_cell_are_said_to_keep_their_last_value(
    tmp_path: Path,
) -> None:
    part = section(tiny(tmp_path))
    found = records(part, lambda _cell, seed: 0.9 + seed / 1000)
    even = curves._read("rounds", summary(part, found))
    record = found["clients-2"]
    shorter = record.repeats[0].model_copy(update={"rounds": record.repeats[0].rounds[:2]})
    found["clients-2"] = record.model_copy(update={"repeats": (shorter, *record.repeats[1:])})
    assert "last value" not in even and "last value" in curves._read("rounds", summary(part, found))


def test_a_legend_of_many_curves_leaves_them_room(tmp_path: Path) -> None:
    path = tiny(tmp_path, "[2, 3, 4, 5, 6, 7, 8]", "centralized = true")
    path.write_text(path.read_text() + OTHER_BATCHES)
    part = section(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib's: axes without room
        drawn = curves.learning(summary(part, records(part, lambda _cell, seed: 0.8 + seed / 100)))
    assert drawn is not None and "in one place" in drawn.inline


@pytest.mark.parametrize(("longest", "scale"), [(19, "linear"), (20, "log"), (2000, "log")])
def test_short_curves_can_be_seen_beside_long_ones_and_lines_beside_wide_bands(
    longest: int, scale: str
) -> None:
    axes = Figure().subplots()
    axes.plot([1], [0.9])
    axes.plot([0, longest], [0.5, 0.9])
    axes.fill_between([0, longest], [0.0, 0.0], [1.0, 1.0])
    axes.axhline(0.97)
    curves._frame([axes], "rounds")
    assert axes.get_xscale() == scale
    low, high = axes.get_ylim()
    assert 0.4 < low < 0.5 and 0.97 < high < 1.1


def test_what_is_synthetic_is_said_in_each_figure_and_csv(tmp_path: Path) -> None:
    path = tiny(tmp_path)
    path.write_text(path.read_text().replace('task = "digits"', 'task = "clouds"'))
    part = section(path)
    for plot in _report(tmp_path, part).parts[0].plots:
        assert "The clouds are synthetic scenes" in plot.inline
        assert b"The clouds are synthetic scenes" in plot.svg  # a comment beside its letters' outlines
    page.write_tables([part], tmp_path / "out", tmp_path / "made")
    for name in ("cells", "effects", "repeats"):
        lines = list(csv.DictReader((tmp_path / f"made/{name}.csv").open()))
        assert lines and all("SYNTHETIC" in line["data"] for line in lines)
    plain = _report(tmp_path / "plain", section(tiny(tmp_path)))
    assert not any("synthetic" in plot.inline for plot in plain.parts[0].plots)


def test_tables_for_machines_say_which_clock_a_time_is_of(tmp_path: Path) -> None:
    path = tiny(tmp_path, more="centralized = true")
    body = path.read_text().replace('"accuracy", "rounds_to_target"', '"seconds", "round_seconds", "bytes"')
    path.write_text(f'{body}\n[experiment.machines]\nclock = "virtual"\nsamples_per_second = 1000\n')
    part = section(path)
    for record in records(part, lambda _cell, seed: 0.7 + seed / 100).values():
        Store(tmp_path / "out/tiny").write(record)
    page.write_tables([part], tmp_path / "out", tmp_path / "made")

    def lines(name: str) -> list[dict[str, str]]:
        return list(csv.DictReader((tmp_path / f"made/{name}.csv").open()))

    cells = {(row["kind"], row["measure"]): row["clock"] for row in lines("cells")}
    assert [cells["federated", m] for m in ("seconds", "seconds_to_target", "round_clock")] == ["virtual"] * 3
    assert (cells["federated", "round_seconds"], cells["centralized", "seconds"]) == ("real", "real")
    assert cells["federated", "accuracy"] == cells["federated", "cpu_seconds"] == ""
    clocks = {row["outcome"]: row["clock"] for row in lines("effects")}
    assert clocks == {"seconds": "virtual", "round_seconds": "real", "bytes": ""}
    assert {row["cell"]: row["clock"] for row in lines("repeats")} == {
        "clients-2": "virtual",
        "clients-8": "virtual",
        "centralized": "real",
    }


def test_tables_for_machines_have_all_that_runs_told_and_the_target(tmp_path: Path) -> None:
    part = section(tiny(tmp_path))
    for record in records(part, lambda _cell, seed: 0.9 + seed / 1000).values():
        told = {"metrics": {"mean_iou": 0.25, "iou_0": 0.5}, "federated": {"loss": 0.75}}
        rounds = [tuple(x.model_copy(update=told) for x in repeat.rounds) for repeat in record.repeats]
        both = zip(record.repeats, rounds, strict=True)
        repeats = tuple(repeat.model_copy(update={"rounds": own}) for repeat, own in both)
        Store(tmp_path / "out/tiny").write(record.model_copy(update={"repeats": repeats}))
    page.write_tables([part], tmp_path / "out", tmp_path / "made")
    cells, effects_, repeats_ = (
        list(csv.DictReader((tmp_path / f"made/{name}.csv").open()))
        for name in ("cells", "effects", "repeats")
    )
    own = {"metrics.mean_iou": "0.25", "metrics.iou_0": "0.5", "federated.loss": "0.75"}
    means = {row["measure"]: row["mean"] for row in cells if row["cell"] == "clients-2"}
    assert own.items() <= means.items() and all(own.items() <= row.items() for row in repeats_)
    assert {row["target"] for row in repeats_} == {"accuracy 0.8"}
    for rows, name in ((cells, "measure"), (effects_, "outcome")):
        targets = {row[name]: row["target"] for row in rows}
        assert targets["rounds_to_target"] == "accuracy 0.8" and targets["accuracy"] == ""


@pytest.mark.parametrize(
    ("workers", "round_", "cut"),
    [
        (0, {}, False),
        (4, {"lost": 1}, False),
        (2, {}, False),
        (4, {"late": 1}, True),
        (2, {"dropped": 1}, True),
    ],
)
def test_what_bytes_and_cpu_time_leave_out_is_said_below_the_table(
    tmp_path: Path, workers: int, round_: dict[str, int], cut: bool
) -> None:
    path = tiny(tmp_path, more="centralized = true")
    path.write_text(path.read_text().replace('"accuracy", "rounds_to_target"', '"accuracy", "round_bytes"'))
    part = section(path)
    found = {
        name: record.model_copy(
            update={
                "repeats": tuple(
                    repeat.model_copy(
                        update={
                            "workers": workers,
                            "rounds": tuple(r.model_copy(update=round_) for r in repeat.rounds),
                        }
                    )
                    for repeat in record.repeats
                )
            }
        )
        for name, record in records(part, lambda _cell, _seed: 0.9).items()
    }
    own = summary(part, found)
    (whole,) = strata(own, own.factors[0])
    _, by_factor = grids.of_factor(own, whole) or ("", None)
    every = grids.of_cells(own)
    assert by_factor is not None
    for note in (by_factor.note, every.note):
        assert ("ytes sent up" in note and "are of updates that were accepted" in note) == cut
        assert ("what 2 worker processes fetched, a round's weights once" in note) == (workers == 2)
    assert "and CPU time" not in by_factor.note and ("and CPU time" in every.note) == cut
    column = every.head.index("bytes of a round, MB")
    assert [row[column] for row in every.rows] == ["2.00 ± 0.00 (3)"] * 2 + ["–"]


def _on_both_clocks(folder: Path, real: dict[tuple[str, int], float]) -> Summary:
    """Rounds of 2 s on the virtual clock, and of so many on the real one: by the cell's clients and seed."""
    path = tiny(folder)
    body = path.read_text().replace('"accuracy", "rounds_to_target"', '"seconds", "accuracy"')
    clock = '[[factors]]\nname = "clock"\nfield = "machines.clock"\nlevels = ["real", "virtual"]\n'
    path.write_text(f"{body}\n{clock}\n[experiment.machines]\nsamples_per_second = 1000\n")
    part = section(path)
    found = {}
    for name, record in records(part, lambda _cell, seed: 0.9 + seed / 1000).items():
        told, repeats = record.levels, []
        for repeat in record.repeats:
            update = {"virtual_seconds": 2.0}
            if told["clock"] == "real":
                update = {"seconds": real[told["clients"], repeat.seed]}
            rounds = tuple(r.model_copy(update=update) for r in repeat.rounds)
            repeats.append(repeat.model_copy(update={"rounds": rounds}))
        found[name] = record.model_copy(update={"repeats": tuple(repeats)})
    return summary(part, found)


def test_two_clocks_are_held_against_each_other_for_each_machine_as_ratios(tmp_path: Path) -> None:
    seconds = {("2", 1): 2.2, ("2", 2): 2.4, ("2", 3): 2.3, ("8", 1): 3.0, ("8", 2): 4.2, ("8", 3): 2.1}
    own = _on_both_clocks(tmp_path, seconds)
    told = " ".join(words.of_section(own))
    title, table = clocks.table(own) or ("", None)
    assert title.startswith("Real clock ÷ virtual clock, seed by seed") and table is not None
    assert table.head == ("with", "time", "seeds")
    ends = {}
    for row, clients in zip(table.rows, ("2", "8"), strict=True):
        logs = np.log([seconds[clients, seed] / 2 for seed in (1, 2, 3)])
        low, high = ends[clients] = np.exp(stats.t.interval(0.95, 2, logs.mean(), stats.sem(logs)))
        assert row == (f"clients {clients}", f"{np.exp(logs.mean()):.2f} ({low:.2f} to {high:.2f})", "3")
    assert (
        "took longer than the virtual one says in 6 of 6 pairs of a seed; it took 1.05 to 2.10 times" in told
    )
    assert f"that ratio reach from {ends['8'][0]:.2f} to {ends['8'][1]:.2f}: closer than that" in told
    assert "They are shown to differ with clients 2." in told  # not with 8, where seeds differ too much
    assert (
        "by clock" not in told.split("Test accuracy")[0] and "no difference is shown for virtual" not in told
    )
    assert not [
        e
        for found in ranked([own]).values()
        for e in found
        if (e.factor.name, e.measure.unit) == ("clock", "s")
    ]


def test_a_time_is_never_averaged_over_both_clocks(tmp_path: Path) -> None:
    own = _on_both_clocks(tmp_path, {(clients, seed): 3.0 for clients in "28" for seed in (1, 2, 3)})
    names = {(e.factor.name, e.stratum.name) for e in effects(own) if e.measure.name == "seconds"}
    assert names == {
        ("clients", "real clock"),
        ("clients", "virtual clock"),
        ("clock", "clients 2"),
        ("clock", "clients 8"),
    }
    lines = list(csv.DictReader(grids.effects_csv([own], TASKS).splitlines()))
    told = {(line["where"], line["clock"]) for line in lines if line["outcome"] == "seconds"}
    assert told == {
        ("real clock", "real"),
        ("virtual clock", "virtual"),
        ("clients 2", "real, virtual"),
        ("clients 8", "real, virtual"),
    }
    part = section(tiny(tmp_path))
    assert clocks.table(summary(part, records(part, lambda _cell, _seed: 0.9))) is None


def test_names_with_commas_are_told_apart() -> None:
    assert claims.listed(["a", "b", "c"]) == "a, b and c"
    assert claims.listed(["10 Mbit/s, 50 ms", "c"]) == "10 Mbit/s, 50 ms; and c"


def test_nothing_is_shown_as_less_than_zero_by_rounding_alone() -> None:
    study = Study(name="x", experiment={"task": "digits"})
    assert named("seconds", study).shown(-0.01) == "0.0 s"
    assert named("seconds", study).shown(-0.06) == "−0.1 s"


def test_energy_and_windows_in_grafana_are_shown_where_there_are_any(tmp_path: Path) -> None:
    part = section(tiny(tmp_path))
    window = "http://127.0.0.1:3000/d/lab-federation?from=1&to=2&var-run=run-1"
    for record in records(part, lambda _cell, _seed: 0.9).values():
        told = [r.model_copy(update={"joules": 90.0, "grafana": window}) for r in record.repeats]
        Store(tmp_path / "out/tiny").write(record.model_copy(update={"repeats": tuple(told)}))
    report = page.gather(part.study, [part], tmp_path / "out", "{cell}{seed}")
    written = page.write(report, tmp_path / "made").read_text()
    assert written.count(f'href="{window.replace("&", "&amp;")}"') == 6
    half = stats.t.ppf(0.975, 2) * 30 / np.sqrt(12 * 3)  # three rounds of 30 J: known to a round's
    for text in ("energy to 80 %, J", f"90 ± {half:.0f} (3)", "of the processors by RAPL"):
        assert text in written
    plain = page.write(_report(tmp_path / "other", part), tmp_path / "plain").read_text()
    assert "energy to" not in plain and "In Grafana" not in plain


def test_published_figures_are_held_against_one_more_run_of_ours(tmp_path: Path) -> None:
    path = tiny(tmp_path)
    path.write_text(path.read_text() + PUBLISHED)
    part = section(path)
    inside = summary(part, records(part, lambda _cell, seed: 0.89 + seed / 200))
    half = stats.t.ppf(0.975, 2) * np.std([89.5, 90.0, 90.5], ddof=1) * np.sqrt(1 + 1 / 3)
    reach = f"({90 - half:.2f} to {90 + half:.2f} %)"
    told = words.of_published(inside.comparisons()[0])
    assert told.endswith(f"; within where one more run of ours would lie {reach}.")
    wide = summary(part, records(part, lambda _cell, seed: 0.5 + seed / 5))
    assert ", which is too wide to say much" in words.of_published(wide.comparisons()[0])
    outside = summary(part, records(part, lambda _cell, seed: 0.5 + seed / 1000))
    assert "; outside of where one more run" in words.of_published(outside.comparisons()[0])


def test_a_published_curve_stands_beside_the_cells_that_it_belongs_to(tmp_path: Path) -> None:
    path = tiny(tmp_path, more='axis = "rounds"')
    path.write_text(
        path.read_text() + PUBLISHED.replace("value = 0.9", "curve = [0.5, 0.7]").replace("2", "8")
    )
    part = section(path)
    own = summary(part, records(part, lambda cell, _seed: 0.7 if cell.id == "clients-8" else 0.9))
    table = grids.of_published([own])
    assert table is not None
    ((_, figure, theirs, ours, _),) = table.rows
    assert figure == "test accuracy by round, %, clients 8"
    assert (theirs, ours) == ("50.0 70.0", "30.0 60.0 70.0 (mean of 3)")


def test_records_of_different_data_or_code_are_never_put_side_by_side(tmp_path: Path) -> None:
    part = section(tiny(tmp_path))
    _report(tmp_path, part)
    store = Store(tmp_path / "out/tiny")
    record = store.all()["clients-8"]
    other = record.repeats[0].model_copy(update={"data_hash": "f" * 64})
    store.write(record.model_copy(update={"repeats": (other, *record.repeats[1:])}))
    with pytest.raises(NotPossible, match="different data"):
        page.gather(part.study, [part], tmp_path / "out", "{cell}{seed}")
    store.write(record.model_copy(update={"versions": record.versions.model_copy(update={"code": "f" * 64})}))
    with pytest.raises(NotPossible, match="different code"):
        page.gather(part.study, [part], tmp_path / "out", "{cell}{seed}")


def test_parts_of_different_code_are_told_at_the_top(tmp_path: Path) -> None:
    part = section(tiny(tmp_path))
    parts = [part, *(Section(key=key, study=part.study) for key in ("other", "third"))]
    found = []
    for own, code, commit in zip(parts, "ccd", "aab", strict=True):
        told = {}
        for name, record in records(own, lambda _cell, _seed: 0.9).items():
            changes = {
                "versions": record.versions.model_copy(update={"code": code * 64}),
                "environment": record.environment.model_copy(
                    update={"git_commit": commit * 40, "git_dirty": False}
                ),
            }
            told[name] = record.model_copy(update=changes)
            Store(tmp_path / "out" / own.key).write(told[name])
        found.append(summary(own, told))
    assert page._codes(found[:2]) == ""
    assert page._codes(found) == (
        "Its parts are of different code: git aaaaaaa (tiny, other); git bbbbbbb (third)."
    )
    told_by_hand = "Run beside other work: its seconds mean nothing."
    report = page.gather(
        part.study, [parts[0], parts[2]], tmp_path / "out", "{cell}{seed}", note=told_by_hand
    )
    page.write(report, tmp_path / "made")
    for name in ("report.html", "report.md"):
        assert told_by_hand in (tmp_path / "made" / name).read_text()
        said = "Its parts are of different code: git aaaaaaa (tiny); git bbbbbbb (third)."
        assert said in (tmp_path / "made" / name).read_text()


def test_a_report_of_nothing_says_so(tmp_path: Path) -> None:
    study, sections = load(tiny(tmp_path))
    with pytest.raises(Unknown, match="nothing of tiny has been run"):
        page.gather(study, sections, tmp_path / "out", "{cell}{seed}")


def test_a_target_not_reached_is_said_and_not_averaged_away() -> None:
    found = Interval((3.0, 4.0), asked=3)
    assert (found.n, found.asked, found.mean) == (2, 3, 3.5)
    study = Study(name="x", experiment={"task": "digits"}, target=0.9)
    measure = named("rounds_to_target", study)
    assert words.shown(measure, found) == "3.5 (mean of the 2 of 3 repeats that reached it)"
    assert found.half is found.low is None
    assert words.shown(measure, Interval((), asked=3)) == "not reached in any of 3 repeats"
    assert words.shown(named("joules", study), Interval((), asked=3)) == "nothing measured"
