"""TensorFlow as this process has it: thread counts, determinism, accelerator.

The first call imports TensorFlow, which takes seconds; importing this module does not.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from roundtable.errors import InvalidSetting
from roundtable.tasks.importing import import_tensorflow
from roundtable.types import Array

_configured: tuple[int, int] | None = None


def configure_threads(intra: int, inter: int) -> None:
    """Set TensorFlow up, before anything is computed. Calling it again with the same counts changes nothing.

    Raises InvalidSetting for other counts later: TensorFlow fixes them when it first computes.
    """
    global _configured
    if _configured == (intra, inter):
        return
    import_tensorflow()
    import tensorflow as tf

    try:
        tf.config.threading.set_intra_op_parallelism_threads(intra)
        tf.config.threading.set_inter_op_parallelism_threads(inter)
        for gpu in tf.config.list_physical_devices("GPU"):
            tf.config.experimental.set_memory_growth(gpu, True)
        tf.config.experimental.enable_op_determinism()
    except RuntimeError:
        found = (
            tf.config.threading.get_intra_op_parallelism_threads(),
            tf.config.threading.get_inter_op_parallelism_threads(),
        )
        raise InvalidSetting(
            f"training.threads: intra = {intra}, inter = {inter}, but this worker's TensorFlow runs with "
            f"{found[0]} and {found[1]} since it started: restart the worker, or give both experiments the "
            "same counts"
        ) from None
    _configured = (intra, inter)


def accelerator() -> str | None:
    """What TensorFlow computes on besides the CPU, as in "GPU: NVIDIA …"; None where there is nothing
    else.
    """
    import_tensorflow()
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return None
    name = tf.config.experimental.get_device_details(gpus[0]).get("device_name", "unknown")
    return f"GPU: {name}" + (f" ×{len(gpus)}" if len(gpus) > 1 else "")


def resident(array: Array) -> tuple[Any, Array]:
    """An array in TensorFlow's own memory, on the CPU: the tensor, and a read-only numpy view of it.

    A data set is held once so, and not twice; an accelerator is given parts of it, never the whole.
    """
    import tensorflow as tf

    with tf.device("CPU"):
        tensor = tf.convert_to_tensor(array)
    return tensor, np.asarray(memoryview(tensor))
