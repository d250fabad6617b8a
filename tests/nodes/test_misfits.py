"""Nodes whose files are not those of the run: real workers, which find out when they are asked to train. Each
says why in one line, the aggregator says it again, and the others finish the run.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from lab.api import Api, read_token
from roundtable.experiment import Experiment, parse
from roundtable.messages import ENDED, CreateRun, RunDetail

from tests.nodes.conftest import ROOT, Hosts, Process, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TASK = """
import numpy as np
from roundtable.tasks import Data, Task

class Points(Task):
    classes = ("left", "right")

    def load(self, data_dir):
        with np.load(data_dir / "points.npz") as file:
            x, y = file["x"], file["y"]
        return Data(x_train=x[:80], y_train=y[:80], x_test=x[80:], y_test=y[80:])

    def model(self):
        import keras
        return keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])

    def loss(self):
        import keras
        return keras.losses.SparseCategoricalCrossentropy(from_logits=True)
"""


def files(folder: Path, task: str = TASK, seed: int = 1) -> dict[str, str]:
    """The settings of a node with this task source and data set."""
    folder.mkdir()
    (folder / "points.py").write_text(task)
    x = np.random.default_rng(seed).normal(size=(100, 2)).astype(np.float32)
    np.savez(folder / "points.npz", x=x, y=(x[:, 0] > 0).astype(np.uint8))
    return {"TASKS_DIR": str(folder), "DATASETS_DIR": str(folder)}


def join(hosts: Hosts, url: str, name: str, **settings: str) -> Process:
    given = {"AGGREGATOR_URL": url, "JOIN_TOKEN_FILE": str(hosts.join_token), "NODE_NAME": name}
    node = hosts.start(name, "-m", "worker", **given, **settings)
    node.says("joined")
    return node


def run(hosts: Hosts, url: str, experiment: Experiment) -> RunDetail:
    with Api(url, read_token(hosts.admin_token)) as api:
        made = api.create(CreateRun(experiment=experiment))[0].id
        wait_for(lambda: api.run(made).state in ENDED, lambda: f"the end of {api.run(made)}")
        return api.run(made)


def refusal(aggregator: Process, node: Process) -> str:
    """The node's one line, which is the server's as well."""
    said = node.field('"refused"')
    assert sum('"refused"' in line for line in node.lines) == 1
    assert sum('"order refused"' in line and f'"{said}"' in line for line in aggregator.lines) == 1
    assert not any("Traceback" in line or '"traceback"' in line for line in node.lines)
    return said


def test_nodes_with_another_task_source_or_data_set_are_left_out_and_told(
    hosts: Hosts, tmp_path: Path
) -> None:
    aggregator, url = hosts.aggregator(POLL_SECONDS="0.5")
    join(hosts, url, "right", **files(tmp_path / "right"))
    older = join(hosts, url, "older", **files(tmp_path / "older", TASK + "# of last week\n"))
    other = join(hosts, url, "other", **files(tmp_path / "other", seed=2))
    experiment = {"name": "misfits", "task": "points:Points", "clients": {"count": 3}, "rounds": {"count": 3}}
    detail = run(hosts, url, parse(experiment))
    assert detail.state == "finished" and detail.round == 3
    assert {worker for record in detail.history for worker in record.workers} == {"w1"}
    remedy = r"give every worker the same files and restart this one"
    for node, words in (
        (older, "this worker's task source has hash "),
        (other, "this worker's data set has"),
    ):
        said = refusal(aggregator, node)
        assert said.startswith(words) and said.endswith(remedy)


def test_a_node_whose_samples_have_labels_that_the_task_does_not_know_is_left_out_and_told(
    hosts: Hosts, tmp_path: Path
) -> None:
    aggregator, url = hosts.aggregator(POLL_SECONDS="0.5")
    nodes = {}
    for name, labels in (("good", range(10)), ("strange", [*range(9), 12])):
        (tmp_path / name).mkdir()
        y = np.repeat(np.array(labels, np.uint8), 3)
        np.savez(tmp_path / name / "data.npz", x=np.full((len(y), 8, 8), 7, np.uint8), y=y)
        folders = {"DATA_DIR": str(tmp_path / name), "DATASETS_DIR": str(ROOT / "datasets")}
        nodes[name] = join(hosts, url, name, **folders)
    experiment = {
        "name": "strange",
        "task": "digits",
        "clients": {"count": 2},
        "rounds": {"count": 2, "quorum": 0.5, "deadline": 20},
        "partition": {"kind": "pinned"},
    }
    detail = run(hosts, url, parse(experiment))
    said = refusal(aggregator, nodes["strange"])
    assert "label 12 is unknown to the task, whose labels are 0 … 9" in said and str(tmp_path) in said
    assert detail.state == "finished", detail.reason
    homes = {worker for record in detail.history for worker in record.workers if record.round}
    assert homes == {"w1"}
