"""What clients tell of their own weights, from their accounts into a round's record."""

from __future__ import annotations

from pathlib import Path

import pytest
from aggregator.personal import gains
from roundtable.errors import InvalidExperiment
from roundtable.experiment import parse
from roundtable.messages import Evaluated, Personal, RoundRecord

from tests.aggregator.on_disk import RUN, DiskRun


def told(examples: int, before: float, after: float) -> Personal:
    """`before` and `after` are right answers."""
    return Personal(
        before=Evaluated(num_examples=examples, sums={"accuracy": before}),
        after=Evaluated(num_examples=examples, sums={"accuracy": after}),
    )


def test_a_client_counts_by_its_examples() -> None:
    together, each = gains([(0, told(10, 5, 9)), (1, None), (2, told(30, 3, 3))])
    assert together is not None
    assert (together.num_examples, together.before, together.after) == (
        40,
        {"accuracy": 0.2},
        {"accuracy": 0.3},
    )
    assert sorted(each) == [0, 2]
    assert (each[0].num_examples, each[0].before, each[0].after) == (10, {"accuracy": 0.5}, {"accuracy": 0.9})


def test_nobody_who_tells_is_nothing() -> None:
    assert gains([(0, None)]) == (None, {})
    assert gains([(0, told(0, 0, 0))]) == (None, {})


def test_sums_that_do_not_match_cost_no_round() -> None:
    odd = Personal(
        before=Evaluated(num_examples=4, sums={"confusion": [1.0, 2.0, 3.0]}),
        after=Evaluated(num_examples=4, sums={"confusion": [1.0, 2.0, 3.0]}),
    )
    other = Personal(
        before=Evaluated(num_examples=4, sums={"hits": 1.0}),
        after=Evaluated(num_examples=4, sums={"hits": 2.0}),
    )
    together, each = gains([(0, told(10, 5, 9)), (1, odd), (2, other)])
    assert together is None
    assert sorted(each) == [0, 2]


def test_it_is_in_the_record_and_survives_the_store(tmp_path: Path) -> None:
    run = DiskRun(tmp_path, clients={"count": 4, "holdout": 0.2}, evaluation={"personalized": True})
    run.initialize()
    run.begin(1, range(4))
    for client in range(4):
        run.accept(1, client, personal=told(10, client, client + 1))
    record = run.close(1, range(4))
    assert record.personalized is not None
    assert record.personalized.before == {"accuracy": 6 / 40}
    assert record.gains[3].after == {"accuracy": 0.4}
    assert run.evaluate(1, 0.5).gains == record.gains
    assert RoundRecord.model_validate_json(record.model_dump_json()) == record
    run.reopen()
    assert run.store.commit_of(RUN, 1).record.gains == record.gains


def test_without_held_out_examples_it_is_refused_by_name() -> None:
    with pytest.raises(
        InvalidExperiment, match=r"evaluation.personalized: found true.*clients.holdout above 0"
    ):
        parse({"name": "x", "task": "mnist", "evaluation": {"personalized": True}})
