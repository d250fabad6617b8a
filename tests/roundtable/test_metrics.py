"""Sums to metrics: what adds up over shards and clients means the same as over all examples at once."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from roundtable.errors import InvalidInput
from roundtable.messages import Evaluated
from roundtable.metrics import added, values


def part(examples: int, **sums: float | list[float]) -> Evaluated:
    return Evaluated(num_examples=examples, sums=sums)


def test_numbers_are_means_over_examples() -> None:
    assert values(part(4, loss=2.0, accuracy=3.0)) == {"loss": 0.5, "accuracy": 0.75}


def test_lists_are_ratios_to_their_last_number() -> None:
    found = values(part(4, precision=[3.0, 6.0], recall=[1.0, 2.0, 4.0]))
    assert found == {"precision": 0.5, "recall_0": 0.25, "recall_1": 0.5}


def test_a_ratio_to_nothing_and_what_is_not_finite_are_left_out() -> None:
    broken = Evaluated.model_construct(
        num_examples=2, sums={"loss": float("nan"), "accuracy": 1.0}, seconds=0.0
    )
    assert values(broken) == {"accuracy": 0.5}
    assert values(part(2, precision=[3.0, 0.0], empty=[], alone=[1.0])) == {}


def test_a_confusion_matrix_gives_iou_for_each_class_that_occurs() -> None:
    matrix = [
        [5, 1, 0, 0],
        [2, 2, 0, 0],
        [0, 0, 0, 0],
        [0, 1, 0, 0],
    ]  # class 2 never occurs, 3 is never predicted
    found = values(part(11, confusion=[float(count) for row in matrix for count in row]))
    assert found["iou_0"] == 5 / 8
    assert found["iou_1"] == 2 / 6
    assert found["iou_3"] == 0
    assert "iou_2" not in found
    assert found["mean_iou"] == pytest.approx((5 / 8 + 2 / 6 + 0) / 3)
    assert found["accuracy"] == 7 / 11


def test_an_accuracy_of_its_own_stands_before_that_of_a_confusion_matrix() -> None:
    assert values(part(2, accuracy=2.0, confusion=[1.0, 1.0, 0.0, 0.0]))["accuracy"] == 1.0
    assert values(part(2, confusion=[1.0, 1.0, 0.0, 0.0], accuracy=2.0))["accuracy"] == 1.0


@pytest.mark.parametrize("matrix", [[], [1.0, 2.0], [1.0] * 8])
def test_a_confusion_matrix_that_is_not_square_is_refused(matrix: list[float]) -> None:
    with pytest.raises(InvalidInput, match="classes × classes"):
        values(part(1, confusion=matrix))


def test_an_empty_confusion_matrix_says_nothing() -> None:
    assert values(part(1, confusion=[0.0] * 9)) == {}


def test_empty_shards_count_for_nothing_and_only_empty_shards_are_refused() -> None:
    assert added([part(0), part(2, loss=1.0), part(0)]) == part(2, loss=1.0)
    with pytest.raises(InvalidInput, match="no examples"):
        added([part(0)])


@pytest.mark.parametrize(
    "parts",
    [
        [part(1, loss=1.0), part(1, accuracy=1.0)],
        [part(1, loss=1.0), part(1, loss=[1.0])],
        [part(1, confusion=[1.0]), part(1, confusion=[1.0] * 4)],
    ],
)
def test_sums_that_do_not_match_are_refused(parts: list[Evaluated]) -> None:
    with pytest.raises(InvalidInput, match="evaluation"):
        added(parts)


@given(
    truth=st.lists(st.integers(0, 3), min_size=1, max_size=60),
    cuts=st.lists(st.integers(0, 60), max_size=4),
    seed=st.integers(0, 99),
)
def test_however_examples_are_cut_into_shards_the_metrics_are_those_of_all(
    truth: list[int], cuts: list[int], seed: int
) -> None:
    guess = np.random.default_rng(seed).integers(0, 4, len(truth))
    actual = np.array(truth)

    def evaluated(of: slice) -> Evaluated:
        matrix = np.zeros((4, 4))
        np.add.at(matrix, (actual[of], guess[of]), 1)
        hits = float((actual[of] == guess[of]).sum())
        return part(len(actual[of]), accuracy=hits, confusion=matrix.ravel().tolist())

    edges = [0, *sorted(min(cut, len(truth)) for cut in cuts), len(truth)]
    shards = [evaluated(slice(begin, end)) for begin, end in pairwise(edges)]
    found = values(added(shards))
    assert found["accuracy"] == pytest.approx(float((actual == guess).mean()))
    ious = [
        ((actual == label) & (guess == label)).sum() / ((actual == label) | (guess == label)).sum()
        for label in range(4)
        if ((actual == label) | (guess == label)).any()
    ]
    assert found["mean_iou"] == pytest.approx(float(np.mean(ious)))
