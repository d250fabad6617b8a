"""An aggregator killed again and again, at any instant, loses nothing: the run ends with the same bits."""

from __future__ import annotations

import threading
from random import Random

import pytest
from roundtable.messages import ENDED

from tests.federation.processes import Lab, experiment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

KILLS = 20
SEED = 20


def test_twenty_kills_at_random_instants_change_nothing_in_the_final_weights(lab: Lab) -> None:
    training = experiment(
        "kills",
        clients={"count": 6},
        training={"epochs": 4, "batch_size": 8},
        rounds={"count": 120},
        evaluation={"shards": 2},
    )
    lab.have_workers("w1", "w2")
    undisturbed = lab.run(training)
    pace = sum(record.seconds for record in undisturbed.history[1:]) / 120  # seconds a round
    random = Random(SEED)
    run = lab.submit(training)
    lab.wait_for_round(run, 1)
    in_mid_round = 0
    for kill in range(KILLS):
        before = lab.wait_for(run, lambda detail: detail.state in ENDED or bool(detail.cohort), "a round")
        assert before.state not in ENDED, f"the run was over before kill {kill + 1}: give it more rounds"
        threading.Event().wait(random.uniform(0, 3 * pace))  # an instant like any other
        lab.kill_aggregator()
        lab.start_aggregator()
        if kill % 4 == 3:  # and while it comes up
            threading.Event().wait(random.uniform(0, 2))
            lab.kill_aggregator()
            lab.start_aggregator()
        after = lab.wait_for(run, lambda detail: detail.state not in ("queued",), "the run again")
        assert after.round >= before.round, "a committed round was lost"
        if after.round == before.round and after.cohort == before.cohort:
            assert set(before.arrived) <= set(after.arrived), "an accepted update was lost"
            in_mid_round += 1
    finished = lab.wait_for_end(run)
    assert finished.state == "finished", finished.reason
    assert finished.history[-1].weights_hash == undisturbed.history[-1].weights_hash
    assert [record.weights_hash for record in finished.history] == [
        record.weights_hash for record in undisturbed.history
    ]
    assert in_mid_round > 0, "no kill fell into a round"
