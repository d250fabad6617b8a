"""How many samples a second this machine trains on: `machines.samples_per_second`, by a short run."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import psutil
from roundtable import experiment as experiments
from roundtable.errors import InvalidInput
from roundtable.experiment import Experiment
from roundtable.messages import CreateRun, RunDetail

from lab import machine
from lab.exits import Exit
from lab.live import Silent
from lab.native import Folders, plain_nodes
from lab.options import DATASETS, TASKS, Datasets, ExperimentFile, Json, Tasks, out, print_json
from lab.place import Place
from lab.session import Session

CLIENTS, ROUNDS = 4, 4  # trained in each round; rounds, of which the first is not counted


def calibrate(
    experiment: ExperimentFile,
    tasks_dir: Tasks = TASKS,
    datasets_dir: Datasets = DATASETS,
    as_json: Json = False,
) -> int:
    """Measure how many samples a second this machine trains on, for machines.samples_per_second.

    One worker trains a few of its clients for some rounds, at full speed; nothing is kept.
    """
    loaded = experiments.load(experiment)
    with tempfile.TemporaryDirectory() as scratch:
        place = Place(Folders(Path(scratch), tasks_dir, datasets_dir))
        session = Session(place, Silent(), psutil.Process().create_time(), plain_nodes(1))
        detail = session.submit(CreateRun(experiment=short(loaded))).detail
    speed = measured(detail)
    here = machine.here()
    if as_json:
        print_json({"samples_per_second": speed, "cpu": here.cpu, "cores": here.cores})
        return Exit.DONE
    out.print(f"samples_per_second = {speed}", soft_wrap=True)
    words = f"  of CPU time, one worker on {here.cpu}; it goes under [machines] in {experiment}"
    out.print(words, soft_wrap=True)
    return Exit.DONE


def short(experiment: Experiment) -> Experiment:
    """The same clients, data and training, in a few rounds of a few of them on plain machines."""
    if experiment.partition.kind == "pinned":
        raise InvalidInput("partition.kind = pinned: the data is on the nodes, which are as fast as they are")
    body: dict[str, Any] = experiment.model_dump(mode="json")
    body["name"] = "calibrate"
    body["clients"]["fraction"] = min(CLIENTS / experiment.clients.count, 1.0)
    body |= {
        "machines": {},
        "rounds": {"count": ROUNDS},
        "evaluation": {"every": ROUNDS, "shards": 1},
        "stop": {},
        "keep": {},
    }
    return experiments.parse(body)


def measured(detail: RunDetail) -> int:
    """Samples a CPU second, three figures of it. Raises InvalidInput where the run came to nothing."""
    rounds = [record for record in detail.history if record.round > 1]
    if detail.state != "finished" or not rounds:
        raise InvalidInput(f"the run that was to be measured {detail.state}: {detail.reason}")
    seconds = sum(account.cpu_seconds for record in rounds for account in record.workers.values())
    samples = sum(record.num_examples for record in rounds) * detail.experiment.training.epochs
    return int(float(f"{samples / seconds:.3g}"))
