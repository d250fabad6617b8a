"""MNIST: handwritten digits, 60,000 + 10,000 images of 28 × 28 (LeCun, Cortes, Burges); ships in
datasets/mnist.npz.

The two models are those of McMahan et al. 2017 (arXiv:1602.05629), section 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from roundtable.tasks.classification import correct, cross_entropy
from roundtable.tasks.npz import read_npz
from roundtable.tasks.task import Data, Task
from roundtable.types import Array

REMEDY = (
    "mnist.npz ships with the lab in datasets/: restore it from there, or name its folder"
    " (lab: --datasets-dir; a worker: DATASETS_DIR)"
)


class Mnist(Task):
    classes = tuple("0123456789")

    def __init__(self, model: Literal["mlp", "cnn"] = "mlp") -> None:
        self.architecture = model

    def model(self) -> Any:
        """Model "mlp": 784-200-200-10, the paper's 2NN (199,210 parameters). "cnn": 5×5×32, pool, 5×5×64,
        pool, dense 512 (1,663,370 parameters). Logits [b, 10].
        """
        import keras
        from keras import layers

        if self.architecture == "mlp":
            hidden = [
                layers.Flatten(),
                layers.Dense(200, activation="relu"),
                layers.Dense(200, activation="relu"),
            ]
        else:
            hidden = [
                layers.Reshape((28, 28, 1)),
                layers.Conv2D(32, 5, padding="same", activation="relu"),
                layers.MaxPooling2D(),
                layers.Conv2D(64, 5, padding="same", activation="relu"),
                layers.MaxPooling2D(),
                layers.Flatten(),
                layers.Dense(512, activation="relu"),
            ]
        inputs = keras.Input((28, 28), dtype="uint8")
        return keras.Sequential([inputs, layers.Rescaling(1 / 255), *hidden, layers.Dense(10)])

    def loss(self) -> Any:
        return cross_entropy()

    def metrics(self, y: Any, predictions: Any) -> Mapping[str, Any]:
        return correct(y, predictions)

    def load(self, data_dir: Path) -> Data:
        """uint8 images [n, 28, 28] and uint8 labels [n]."""
        return Data(**read_npz(data_dir / "mnist.npz", ("x_train", "y_train", "x_test", "y_test"), REMEDY))

    def train_labels(self, data_dir: Path) -> Array:
        return read_npz(data_dir / "mnist.npz", ("y_train",), REMEDY)["y_train"]
