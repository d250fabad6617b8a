"""evaluation.personalized: what a client's own weights are worth on its held-out examples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from roundtable.experiment import parse
from roundtable.messages import Order, Plan
from roundtable.metrics import values
from roundtable.weights import Weights
from worker.run import Run
from worker.trainer import Trainer
from worker.work import _personal

ROOT = Path(__file__).parents[2]


def run_of(**sections: Any) -> Run:
    body = {
        "name": "t",
        "task": "digits",
        "clients": {"count": 6, "holdout": 0.3},
        "partition": {"kind": "shards"},
        "training": {"epochs": 3, "learning_rate": 0.2},
        "evaluation": {"personalized": True, "every": 2},
        "rounds": {"count": 5},
        **sections,
    }
    plan = Plan(run="r", experiment=parse(body))
    return Run(plan, Trainer(plan, ROOT / "tasks", ROOT / "datasets", None, "node"))


def order(client: int, number: int) -> Order:
    return Order(id="o", kind="train", run="r", round=number, client=client)


def test_a_client_with_two_digits_does_better_on_its_own_after_training_and_the_same_each_time() -> None:
    run = run_of()
    weights, _ = run.trainer.initialize()
    found = []
    for _ in range(2):
        update = run.trainer.train(3, 2, weights, None, None, lambda: False).update
        told = _personal(order(3, 2), run, weights, update)
        assert told is not None
        found.append((told.before.sums, told.after.sums))
    assert found[0] == found[1]
    rows, held = run.trainer._data.of(3)  # type: ignore[attr-defined]
    assert (
        told.before.num_examples == told.after.num_examples == len(held) == int(0.3 * (len(rows) + len(held)))
    )
    before, after = values(told.before), values(told.after)
    assert after["accuracy"] > before["accuracy"] + 0.3
    own = Weights.of(weights.manifest, [a + b for a, b in zip(weights.arrays, update.arrays, strict=True)])
    hidden = np.maximum(
        run.trainer._data.x[held].reshape(len(held), -1) / 16 @ own.arrays[0] + own.arrays[1],  # type: ignore[attr-defined]
        0,
    )
    guess = (hidden @ own.arrays[2] + own.arrays[3]).argmax(1)
    assert after["accuracy"] == np.mean(guess == run.trainer._data.y[held])  # type: ignore[attr-defined]


def test_it_is_told_in_rounds_that_are_evaluated_and_of_clients_with_something_held_out() -> None:
    run = run_of()
    weights, _ = run.trainer.initialize()
    still = Weights.zeros(weights.manifest)
    assert [_personal(order(0, number), run, weights, still) is not None for number in (1, 2, 3, 4, 5)] == [
        False,
        True,
        False,
        True,
        True,  # the last
    ]
    assert _personal(order(0, 2), run_of(evaluation={}), weights, still) is None
    sparse = run_of(clients={"count": 700, "holdout": 0.1}, partition={"kind": "iid"})  # two examples each
    assert _personal(order(0, 2), sparse, weights, still) is None
