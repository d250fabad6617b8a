"""How fast this machine trains, evaluates and talks: two short runs for each kind of training in a study.

The first has few clients with many examples each, the second many clients with few; their rounds after the
first, which traces, give the seconds of an example and of a client.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

from roundtable.experiment import Experiment, parse
from roundtable.types import Seconds

from lab.study.cells import slug
from lab.study.pace import Rates, kind
from lab.study.records import Repeat

ROUNDS = 3
FEW, MANY = 4, 32  # clients
LARGE, SMALL = 800, 16  # examples each
LEAST = 1e-7  # seconds an example: what cannot be measured, on a busy machine say
Carry = Callable[[Experiment, Seconds], Repeat]


def calibrate(experiment: Experiment, examples: int, workers: int, carry_out: Carry) -> Rates | str:
    """The kind's rates, or why they could not be had. `examples`: in the training set."""
    few = carry_out(_probe(experiment, FEW, min(LARGE, examples // FEW)), 600.0)
    many = carry_out(_probe(experiment, MANY, min(SMALL, examples // MANY)), 600.0)
    for probe in (few, many):
        if probe.state != "finished" or len(probe.rounds) < ROUNDS:
            return probe.reason or "it ended early"
    size, small = min(LARGE, examples // FEW), min(SMALL, examples // MANY)
    each_few, each_many = _each(few), _each(many)
    # few = FEW·client + FEW·size/w·example, many = MANY·client + MANY·small/w·example
    own, own_many = FEW * size / min(workers, FEW), MANY * small / workers
    example = max((each_few - each_many * FEW / MANY) / (own - own_many * FEW / MANY), LEAST)
    client = max((each_many - own_many * example) / MANY, 1e-4)
    evaluation = max(many.ended - many.rounds[-1].committed, 0.0)
    start = max((many.ended - many.began) - (ROUNDS - 1) * each_many - evaluation, 0.0)
    return Rates(start, client, example, evaluation)


def _each(probe: Repeat) -> Seconds:
    return statistics.median(record.seconds for record in probe.rounds[1:])


def _probe(experiment: Experiment, clients: int, size: int) -> Experiment:
    body = {
        "name": slug(f"calibration-{kind(experiment)}")[:60].strip("-"),
        "task": experiment.task,
        "task_options": experiment.task_options,
        "clients": {"count": clients},
        "partition": {"kind": "fixed", "size": max(size, 1)},
        "training": experiment.training.model_dump() | {"epochs": 1},
        "strategy": {"objective": experiment.strategy.objective.model_dump()},
        "rounds": {"count": ROUNDS},
        "evaluation": {"every": ROUNDS, "shards": experiment.evaluation.shards},
    }
    return parse(body)
