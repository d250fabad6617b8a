"""The 8 × 8 digits that scikit-learn bundles (1,797 images, UCI): for tests and for tiny machines. No file,
no network.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from roundtable.errors import InvalidData
from roundtable.tasks.classification import correct, cross_entropy
from roundtable.tasks.task import Data, Task
from roundtable.types import Array


class Digits(Task):
    classes = tuple("0123456789")

    def __init__(self, model: Literal["mlp", "cnn"] = "mlp") -> None:
        self.architecture = model

    def model(self) -> Any:
        """Model "mlp": 64-32-10 (2,410 parameters). "cnn": 3×3×8, pool, dense 32 (4,538 parameters). Logits
        [b, 10].
        """
        import keras
        from keras import layers

        hidden = [layers.Flatten()]
        if self.architecture == "cnn":
            hidden = [
                layers.Reshape((8, 8, 1)),
                layers.Conv2D(8, 3, padding="same", activation="relu"),
                layers.MaxPooling2D(),
                layers.Flatten(),
            ]
        inputs = keras.Input((8, 8), dtype="uint8")
        outputs = [layers.Dense(32, activation="relu"), layers.Dense(10)]
        return keras.Sequential([inputs, layers.Rescaling(1 / 16), *hidden, *outputs])

    def loss(self) -> Any:
        return cross_entropy()

    def metrics(self, y: Any, predictions: Any) -> Mapping[str, Any]:
        return correct(y, predictions)

    def load(self, data_dir: Path) -> Data:  # noqa: ARG002 (bundled)
        """uint8 images [n, 8, 8] of 0 … 16 and uint8 labels [n]; every fifth image is in the test set."""
        x, y = _bundled()
        test = np.arange(len(x)) % 5 == 4
        return Data(x_train=x[~test], y_train=y[~test], x_test=x[test], y_test=y[test])


def _bundled() -> tuple[Array, Array]:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise InvalidData(
            "task digits: its images come with scikit-learn, which is not installed here"
        ) from None
    x, y = load_digits(return_X_y=True)
    return x.reshape(-1, 8, 8).astype(np.uint8), y.astype(np.uint8)
