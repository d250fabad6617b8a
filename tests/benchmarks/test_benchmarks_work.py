"""That the benchmarks run and write what they should; no time is looked at."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from tests.benchmarks import arithmetic, coordination, floor
from tests.benchmarks.results import Differs, Figure, compare, table, write


def test_the_smallest_coordination_runs_against_its_floor_and_is_written(tmp_path: Path) -> None:
    figure = coordination.measure(0.1, rounds=3, warm_up=1, durability="process", at_most=4.0)
    write([figure], tmp_path / "bench-core.json")
    (written,) = json.loads((tmp_path / "bench-core.json").read_text())
    assert {"name", "size_mb", "ours_s", "reference_s", "ratio", "repeats"} <= written.keys()
    assert (written["name"], written["size_mb"]) == ("coordination", 0.1)
    assert [len(written["repeats"][who]) for who in ("ours", "reference")] == [3, 6]
    assert written["ratio"] == pytest.approx(written["ours_s"] / written["reference_s"])


def test_the_floor_moves_and_folds_the_same_weights() -> None:
    seconds, weights = floor.run(1000, rounds=4, workers=3)
    assert len(seconds) == 4
    coordination.check(weights, 4, "the floor")


def test_times_of_other_results_are_not_compared() -> None:
    with pytest.raises(Differs, match="a weight is"):
        coordination.check(np.full(10, 0.003, np.float32), 4, "ours")


def test_the_table_says_what_was_missed() -> None:
    met = compare("quick", 20.0, [0.2, 0.1, 0.3], [0.1], at_most=3.0)
    missed = compare("slow", None, [4.0], [1.0], at_most=3.0)
    text = table([met, missed, Figure("memory", 1.0, 90.0, 150.0, 0.6, unit="MB")])
    assert "| quick | 20 | 200.0 ms | 100.0 ms | 2.00 | ≤ 3× | met |" in text
    assert "| slow |  | 4.00 s | 1.00 s | 4.00 | ≤ 3× | **missed** |" in text
    assert "| memory | 1 | 90.00 MB | 150.00 MB | 0.60 |  |  |" in text


def test_the_arithmetic_of_a_step_is_the_products_of_both_passes() -> None:
    rng = np.random.default_rng(1)
    sizes = arithmetic.LAYERS
    w1, w2, w3 = (rng.normal(size=pair).astype(np.float32) for pair in pairwise(sizes))
    x = rng.random((arithmetic.BATCH, sizes[0]), np.float32)
    h1, h2 = x @ w1, x @ w1 @ w2
    error = h2 @ w3  # as if the loss were half of its square: d loss / d weights
    expected = [h2.T @ error, h1.T @ (error @ w3.T), x.T @ (error @ w3.T @ w2.T)]
    for own, known in zip(arithmetic._step(x, [w1, w2, w3]), expected, strict=True):
        np.testing.assert_allclose(own, known, rtol=1e-4)


@pytest.mark.slow
def test_the_floor_is_taken_in_processes_that_work_at_once() -> None:
    found = arithmetic._together(arithmetic._products, 1)
    assert len(found["seconds"]) == arithmetic.REPEATS and min(found["seconds"]) > 0
    assert found["processor"][0] > 0
