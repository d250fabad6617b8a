"""What a task's evaluations give, by name: found by asking for them once, of one test example."""

from __future__ import annotations

import numpy as np
from roundtable import metrics
from roundtable.experiment import Experiment
from roundtable.messages import Evaluated
from roundtable.tasks.importing import import_tensorflow
from roundtable.tasks.loading import build

from lab import data
from lab.native import Folders


def metric_names(experiment: Experiment, folders: Folders) -> frozenset[str]:
    """Of the experiment's task, "loss" too; builds its model, which takes seconds.

    Raises InvalidTask, InvalidData.
    """
    import_tensorflow()
    import tensorflow as tf

    task = data.task_of(experiment, folders.tasks).task
    with data.calling(f"task {experiment.task}: its metrics cannot be asked for"):
        model = build(task, experiment.task)  # first: of a task that has loaded nothing, as a worker's is
        found = task.load(folders.datasets)
        predictions = model(found.x_test[:1], training=False)
        sums = task.metrics(tf.constant(found.y_test[:1]), predictions)
        # Ones, since what one example does not show, such as a class that it lacks, would be left out.
        ones = {name: np.ones(np.shape(total)).tolist() for name, total in sums.items()}
    return frozenset({"loss", *metrics.values(Evaluated(num_examples=1, sums=ones))})
