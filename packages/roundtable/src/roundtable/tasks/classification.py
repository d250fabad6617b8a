"""What tasks that choose one of several classes have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def cross_entropy() -> Any:
    """Between integer labels [b, …], each one of the classes, and logits [b, …, classes]: values [b, …].

    To the bit what Keras's SparseCategoricalCrossentropy has under `enable_op_determinism`, which looks the
    labels' values up, and adds gradients up where they were, in five times as many operations: for a small
    model that was a tenth of its training.
    """
    import tensorflow as tf

    def loss(y: Any, logits: Any) -> Any:
        chosen = tf.one_hot(tf.cast(y, tf.int32), logits.shape[-1])  # [b, …, classes]
        return -tf.reduce_sum(chosen * tf.nn.log_softmax(logits), axis=-1)

    return loss


def correct(y: Any, logits: Any) -> Mapping[str, Any]:
    """How many of a batch are classified right, for the metric "accuracy": y [b], logits [b, classes]."""
    import tensorflow as tf

    hits = tf.equal(tf.argmax(logits, axis=-1, output_type=tf.int32), tf.cast(y, tf.int32))
    return {"accuracy": tf.reduce_sum(tf.cast(hits, tf.float32))}


def confusion(y: Any, logits: Any, classes: int) -> Any:
    """How often class i was taken for class j, flat: [classes · classes], at position i · classes + j.

    y [b, …] and logits [b, …, classes]: images and pixels alike; mean IoU comes out of it.
    """
    import tensorflow as tf

    truth = tf.reshape(tf.cast(y, tf.int32), [-1])
    guess = tf.reshape(tf.argmax(logits, axis=-1, output_type=tf.int32), [-1])
    return tf.math.bincount(
        truth * classes + guess, minlength=classes**2, maxlength=classes**2, dtype=tf.int64
    )
