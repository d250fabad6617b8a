"""What a run survives and what leaves no trace in its weights: who trains what, workers killed, leaving or of
another mind, the aggregator killed.

In an order in which the workers of one test serve the next: each takes seconds to start.
"""

from __future__ import annotations

import json
import signal

import numpy as np
import pytest
from roundtable.experiment import Experiment, Threads, Training

from tests.federation.processes import Child, Lab, experiment

pytestmark = pytest.mark.timeout(600)


def training(name: str, rounds: int = 12) -> Experiment:
    return experiment(name, clients={"count": 4}, rounds={"count": rounds}, evaluation={"shards": 1})


def logged(child: Child, event: str) -> list[dict[str, str]]:
    lines = [json.loads(line) for line in child.log.read_text().splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == event]


WORKERS = ("w1", "w2", "w3", "w4", "w5")
ROUNDS = {"mlp": 12, "cnn": 6}  # enough that one is under way when a worker is told to freeze


@pytest.mark.slow
@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_1_worker_5_workers_and_5_with_one_killed_in_mid_round_end_with_the_same_weights(
    lab: Lab, model: str
) -> None:
    same = experiment(
        f"same-{model}", task_options={"model": model}, clients={"count": 10}, rounds={"count": ROUNDS[model]}
    )
    lab.have_workers("w1")
    alone = lab.run(same)
    lab.have_workers(*WORKERS)
    together = lab.run(same)
    for _ in range(5):
        lab.have_workers(*WORKERS)
        run = lab.submit(same)
        lab.wait_for_round(run, 1)
        lab.freeze_in_mid_round(run, "w5").kill()
        killed = lab.wait_for_end(run)
        if lost := sum(record.lost for record in killed.history):
            break  # else its updates were on their way already, and it held no other order
    assert lost > 0, "the worker that was killed had nothing to do"
    runs = (alone, together, killed)
    assert [run.state for run in runs] == ["finished"] * 3
    assert len({run.history[-1].weights_hash for run in runs}) == 1
    assert len({run.accuracy for run in runs}) == 1
    assert [record.participants for record in killed.history[1:]] == [tuple(range(10))] * ROUNDS[model]
    assert max(len(record.workers) for record in together.history) == 5, "somebody had no part in it"


def test_an_aggregator_killed_in_mid_round_goes_on_in_the_same_round(lab: Lab) -> None:
    lab.have_workers("w1", "w2")
    undisturbed = lab.run(training("killed"))
    run = lab.submit(training("killed"))
    lab.wait_for_round(run, 2)
    frozen = lab.freeze_in_mid_round(run, "w2")
    before = lab.wait_for(run, lambda detail: bool(detail.arrived), "an update from w1")
    lab.kill_aggregator()
    lab.start_aggregator()
    after = lab.wait(lambda: lab.api.run(run), "the aggregator")
    if after.round == before.round:
        assert after.cohort == before.cohort
        assert set(before.arrived) <= set(after.arrived), "an accepted update was lost"
    else:  # what the frozen worker had sent already was the round's last, and came in before the kill
        assert after.round == before.round + 1
    frozen.signal(signal.SIGCONT)
    finished = lab.wait_for_end(run)
    assert finished.state == "finished"
    assert finished.history[-1].weights_hash == undisturbed.history[-1].weights_hash


def test_a_worker_told_to_leave_in_mid_round_goes_within_5_s_and_the_run_does_not_wait_for_it(
    lab: Lab,
) -> None:
    lab.have_workers("w1", "w2")
    undisturbed = lab.run(training("leaving"))
    run = lab.submit(training("leaving"))
    lab.wait_for_round(run, 2)
    leaver = lab.workers["w2"].process
    leaver.terminate()
    assert leaver.wait(5.0) == 0
    assert {worker.node: worker.state for worker in lab.api.workers()}["w2"] == "left"
    finished = lab.wait_for_end(run)
    assert finished.state == "finished"
    assert finished.history[-1].weights_hash == undisturbed.history[-1].weights_hash


@pytest.mark.slow
def test_every_worker_lost_in_mid_round_and_a_new_one_finishes_the_run(lab: Lab) -> None:
    lab.have_workers("w1", "w2")
    undisturbed = lab.run(training("all-lost"))
    run = lab.submit(training("all-lost"))
    lab.wait_for_round(run, 2)
    lab.freeze_in_mid_round(run, "w2")
    for child in lab.workers.values():
        child.kill()
    waiting = lab.wait_for(run, lambda detail: detail.state == "waiting", "nobody to work for it")
    assert waiting.reason and "worker" in waiting.reason
    lab.have_workers("w3")
    finished = lab.wait_for_end(run)
    assert finished.state == "finished"
    assert finished.history[-1].weights_hash == undisturbed.history[-1].weights_hash


@pytest.mark.slow
def test_runs_of_other_thread_counts_follow_each_other_on_the_same_workers(lab: Lab) -> None:
    lab.have_workers("w1")
    child = lab.workers["w1"]
    finished = [
        lab.run(training("threads").model_copy(update={"training": Training(threads=Threads(intra=count))}))
        for count in (1, 2)
    ]
    assert [run.state for run in finished] == ["finished", "finished"], finished[-1].reason
    assert child.process.poll() is None and len(logged(child, "starting over")) == 1


TASK = '''
"""Reads its data from the data sets' folder."""
import numpy as np
from roundtable.tasks import Data, Task


class Small(Task):
    def model(self):
        import keras
        return keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])

    def loss(self):
        import keras
        return keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="none")

    def load(self, data_dir):
        with np.load(data_dir / "small.npz") as data:
            return Data(data["x"], data["y"], data["x"][:8], data["y"][:8])
'''


@pytest.mark.slow
def test_a_worker_of_another_task_source_or_data_set_is_refused_and_the_others_go_on(
    lab: Lab,
) -> None:
    rng = np.random.default_rng(1)
    folders = {}
    for name in ("small", "other-data"):
        folders[name] = lab.folder / name
        folders[name].mkdir()
        x = rng.normal(size=(40, 4)).astype(np.float32)
        np.savez(folders[name] / "small.npz", x=x, y=(x[:, 0] > 0).astype(np.int64))
    (lab.tasks / "small.py").write_text(TASK)
    folders["other-task"] = lab.folder / "other-task"
    folders["other-task"].mkdir()
    (folders["other-task"] / "small.py").write_text(TASK + "\n# changed\n")

    lab.have_workers()
    lab.start_worker("good", DATASETS_DIR=str(folders["small"]))
    other_task = lab.start_worker(
        "other-task", DATASETS_DIR=str(folders["small"]), TASKS_DIR=str(folders["other-task"])
    )
    other_data = lab.start_worker("other-data", DATASETS_DIR=str(folders["other-data"]))
    lab.wait_for_workers("good", "other-task", "other-data")
    for child in (other_task, other_data):  # the good one is to make the first weights
        child.signal(signal.SIGSTOP)
    lab.wait_for_workers("good")

    small = training("small", rounds=1_000_000).model_copy(update={"task": "small:Small"})
    run = lab.submit(small)
    lab.wait_for_round(run, 1)
    for child in (other_task, other_data):
        child.signal(signal.SIGCONT)
    for child, what in ((other_task, "task source"), (other_data, "data set")):
        refusals = lab.wait(lambda child=child: logged(child, "refused") or None, f"a refusal: {what}")
        assert what in refusals[0]["detail"]
    refused = lab.api.run(run).round
    later = lab.wait_for(run, lambda detail: detail.round >= refused + 3, "more rounds")
    assert {record.participants for record in later.history[1:]} == {(0, 1, 2, 3)}
