"""CIFAR-10: 50,000 + 10,000 colour images of 32 × 32 in ten classes (Krizhevsky 2009).

Read from the data folder (cifar10.npz, or cifar10-jpeg.npz, which holds a JPEG an image), else fetched by
Keras.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from roundtable.errors import InvalidData
from roundtable.tasks.classification import correct, cross_entropy
from roundtable.tasks.npz import read_npz
from roundtable.tasks.task import Data, Task
from roundtable.types import Array

REMEDY = "see datasets/README.md for how to prepare CIFAR-10"
BATCH = 5000  # images decoded in one call
PATIENCE = 20.0  # seconds without a byte before a download is given up


class Cifar10(Task):
    classes = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

    def model(self) -> Any:
        """Convolutions 32-64-64 of 3×3 with pools between, dense 64 (122,570 parameters). Logits [b, 10]."""
        import keras
        from keras import layers

        return keras.Sequential(
            [
                keras.Input((32, 32, 3), dtype="uint8"),
                layers.Rescaling(1 / 255),
                layers.Conv2D(32, 3, activation="relu"),
                layers.MaxPooling2D(),
                layers.Conv2D(64, 3, activation="relu"),
                layers.MaxPooling2D(),
                layers.Conv2D(64, 3, activation="relu"),
                layers.Flatten(),
                layers.Dense(64, activation="relu"),
                layers.Dense(10),
            ]
        )

    def loss(self) -> Any:
        return cross_entropy()

    def metrics(self, y: Any, predictions: Any) -> Mapping[str, Any]:
        return correct(y, predictions)

    def load(self, data_dir: Path) -> Data:
        """uint8 images [n, 32, 32, 3] and uint8 labels [n]."""
        plain, jpeg = data_dir / "cifar10.npz", data_dir / "cifar10-jpeg.npz"
        if plain.exists():
            arrays = read_npz(plain, ("x_train", "y_train", "x_test", "y_test"), REMEDY)
            return Data(**{name: _flat(array) if name[0] == "y" else array for name, array in arrays.items()})
        if jpeg.exists():
            return Data(
                x_train=_decoded(jpeg, "train"),
                y_train=_flat(read_npz(jpeg, ("y_train",), REMEDY)["y_train"]),
                x_test=_decoded(jpeg, "test"),
                y_test=_flat(read_npz(jpeg, ("y_test",), REMEDY)["y_test"]),
            )
        return _fetched(data_dir)

    def train_labels(self, data_dir: Path) -> Array:
        for name in ("cifar10.npz", "cifar10-jpeg.npz"):
            if (data_dir / name).exists():
                return _flat(read_npz(data_dir / name, ("y_train",), REMEDY)["y_train"])
        return _fetched(data_dir).y_train


def _flat(labels: Array) -> Array:
    return labels.reshape(-1)


def _decoded(path: Path, part: str) -> Array:
    """[n, 32, 32, 3]. JPEG decoders differ in pixels and hashes would with them: the decoder and its method
    are fixed.
    """
    import tensorflow as tf

    keys = (f"jpeg_{part}", f"offsets_{part}")
    arrays = read_npz(path, keys, REMEDY)
    body, offsets = arrays[keys[0]].tobytes(), arrays[keys[1]].tolist()
    coded = [body[begin:end] for begin, end in pairwise(offsets)]
    images = np.empty((len(coded), 32, 32, 3), np.uint8)
    image = tf.TensorSpec(images.shape[1:], tf.uint8)

    def decoded(one: Any) -> Any:
        return tf.io.decode_jpeg(one, channels=3, dct_method="INTEGER_ACCURATE")

    decode = tf.function(
        lambda batch: tf.map_fn(decoded, batch, fn_output_signature=image),
        input_signature=[tf.TensorSpec([None], tf.string)],
        autograph=False,
    )
    for at in range(0, len(coded), BATCH):
        try:
            images[at : at + BATCH] = decode(tf.constant(coded[at : at + BATCH], tf.string)).numpy()
        except (tf.errors.InvalidArgumentError, ValueError) as error:
            raise InvalidData(
                f"{path}: one of the images {at} … {at + BATCH - 1} of {part} cannot be decoded "
                f"({type(error).__name__}); {REMEDY}"
            ) from None
    return images


def _fetched(data_dir: Path) -> Data:
    import keras

    try:
        with _patience(PATIENCE), redirect_stdout(sys.stderr):  # Keras tells of its download
            (x_train, y_train), (x_test, y_test) = keras.datasets.cifar10.load_data()
    except Exception as error:  # noqa: BLE001 (Keras raises bare Exception where it cannot download)
        said = " ".join(str(error).split())[:200]
        raise InvalidData(
            f"cifar10: neither cifar10.npz nor cifar10-jpeg.npz is in {data_dir}, and it could not be "
            f"downloaded ({said}); {REMEDY}"
        ) from None
    return Data(x_train=x_train, y_train=_flat(y_train), x_test=x_test, y_test=_flat(y_test))


@contextmanager
def _patience(seconds: float) -> Iterator[None]:
    """Keras opens its connection without a time-out; this gives it one."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
