"""Who trains what, and who is killed meanwhile, leaves no trace in the final weights."""

from __future__ import annotations

import pytest
from roundtable.experiment import Experiment

from tests.federation.processes import Lab, experiment

pytestmark = pytest.mark.timeout(600)

WORKERS = ("w1", "w2", "w3", "w4", "w5")
ROUNDS = {"mlp": 12, "cnn": 6}  # enough that one is under way when a worker is told to freeze


def training(model: str) -> Experiment:
    return experiment(
        f"same-{model}", task_options={"model": model}, clients={"count": 10}, rounds={"count": ROUNDS[model]}
    )


@pytest.mark.parametrize("model", ["mlp", pytest.param("cnn", marks=pytest.mark.slow)])
def test_1_worker_5_workers_and_5_with_one_killed_in_mid_round_end_with_the_same_weights(
    lab: Lab, model: str
) -> None:
    lab.have_workers("w1")
    alone = lab.run(training(model))
    lab.have_workers(*WORKERS)
    together = lab.run(training(model))
    run = lab.submit(training(model))
    lab.wait_for_round(run, 1)
    victim = lab.freeze_in_mid_round(run, "w5")
    victim.kill()
    killed = lab.wait_for_end(run)
    assert sum(record.lost for record in killed.history) > 0, "the worker that was killed had nothing to do"
    runs = (alone, together, killed)
    assert [run.state for run in runs] == ["finished"] * 3
    assert len({run.history[-1].weights_hash for run in runs}) == 1
    assert len({run.accuracy for run in runs}) == 1
    assert [record.participants for record in killed.history[1:]] == [tuple(range(10))] * ROUNDS[model]
    assert max(len(record.workers) for record in together.history) == 5, "somebody had no part in it"
