"""Tasks: a data set, a model, a loss and metrics, and how they are found by name.

    task       what a task is (`Task`, `Data`) and what it does when it says nothing
    registry   names of built-in tasks → classes; `find(name, options, tasks_dir)`
    loading    the user's own task, one Python file; options; the source's hash
    importing  TensorFlow and Keras, imported for the first time
    npz        reading data files, with errors that say what to do
    pinned     a node's own folder
    digits, mnist, cifar10, clouds   the built-in tasks

Nothing here imports TensorFlow or Keras when it is imported: tasks do so inside `model()` and `loss()`, so
that labels can be read, and partitions drawn, where there is no TensorFlow.
"""

from roundtable.tasks.registry import BUILT_IN, Found, find
from roundtable.tasks.task import Data, Task

__all__ = ["BUILT_IN", "Data", "Found", "Task", "find"]
