"""A round of 50 clients with 840 MNIST images each, for real, through the whole lab with 2 workers.

The reference is how it is usually done on one machine: one Keras model, used again for each client,
`set_weights`, `fit`, `get_weights`, a weighted mean; one process, TensorFlow's own thread counts.
"""

from __future__ import annotations

import multiprocessing
import statistics
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from lab.native import Folders, native, plain_nodes
from roundtable.experiment import Experiment, parse
from roundtable.tasks.importing import import_tensorflow

from tests.benchmarks.coordination import carried_out
from tests.benchmarks.results import Differs, Figure, compare

CLIENTS = 50
EXAMPLES = 840
WORKERS = 2
ROOT = Path(__file__).parents[2]
_SAME = 0.03  # test accuracies further apart than this are not the same result


def experiment_of(rounds: int, every: int, clients: int = CLIENTS) -> Experiment:
    """`every`: so many rounds to an evaluation."""
    return parse(
        {
            "name": "simulated-round",
            "task": "mnist",
            "clients": {"count": clients},
            "partition": {"kind": "fixed", "size": EXAMPLES},
            "training": {"epochs": 1, "batch_size": 32, "optimizer": "sgd", "learning_rate": 0.1},
            "rounds": {"count": rounds},
            "evaluation": {"every": every},
        }
    )


def measure(rounds: int, warm_up: int) -> Figure:
    """Seconds a round after `warm_up` rounds. Raises Differs when the two do not learn the same."""
    total = rounds + warm_up
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        folders = Folders(runs=Path(folder), tasks=ROOT / "tasks", datasets=ROOT / "datasets")
        with native(folders) as lab:
            lab.start_workers(plain_nodes(WORKERS))
            history = carried_out(lab, experiment_of(total, total)).history
    # The first rounds trace the functions; the last one is evaluated after its commit.
    ours = np.diff([record.committed for record in history]).tolist()[warm_up:]
    reference, accuracy = _reference(experiment_of(total, total), warm_up)
    own = history[-1].accuracy
    if own is None or abs(own - accuracy) > _SAME:
        raise Differs(
            f"simulated_round: test accuracy {own} here, {accuracy:.4f} with fit, after {total} rounds"
        )
    notes = {
        "accuracy": own,
        "reference_accuracy": accuracy,
        "rounds": total,
        "clients_s": statistics.median(
            record.phases.get("clients", 0.0) for record in history[1 + warm_up :]
        ),
        "speed_up": statistics.median(reference) / statistics.median(ours),
    }
    return compare("simulated_round", None, ours, reference, at_most=1 / 5, notes=notes)


def _reference(experiment: Experiment, warm_up: int) -> tuple[list[float], float]:
    """Seconds of each round after the warm-up, and the test accuracy at the end; TensorFlow stays in a
    child."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(target=_fit, args=(experiment, warm_up, sender))
    process.start()
    sender.close()
    try:
        seconds, accuracy = receiver.recv()
    finally:
        process.join(30)
        if process.is_alive():
            process.kill()
    return seconds, accuracy


def _fit(experiment: Experiment, warm_up: int, sender: Connection) -> None:
    import_tensorflow()
    import keras
    from roundtable.tasks.mnist import Mnist

    task = Mnist()
    data = task.load(ROOT / "datasets")
    spread = experiment.partition.split(data.y_train, experiment.clients.count, experiment.seed)
    parts = [(data.x_train[rows], data.y_train[rows]) for rows in spread]
    keras.utils.set_random_seed(experiment.seed)
    model = task.model()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(experiment.training.learning_rate), loss, metrics=["accuracy"])
    weights = model.get_weights()
    total = sum(len(y) for _, y in parts)
    seconds = []
    for _ in range(experiment.rounds.count):
        started = time.perf_counter()
        mean = [np.zeros_like(array) for array in weights]
        for x, y in parts:
            model.set_weights(weights)
            model.fit(x, y, batch_size=32, epochs=1, verbose=0)
            for into, array in zip(mean, model.get_weights(), strict=True):
                into += array * (len(y) / total)
        weights = mean
        seconds.append(time.perf_counter() - started)
    model.set_weights(weights)
    accuracy = model.evaluate(data.x_test, data.y_test, batch_size=1000, verbose=0, return_dict=True)[
        "accuracy"
    ]
    sender.send((seconds[warm_up:], float(accuracy)))
