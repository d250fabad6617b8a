"""The Dice loss: one minus the overlap of what is predicted with what is there (Milletari et al. 2016,
arXiv:1606.04797), of each tile by itself, so that it adds up over batches, shards and clients.

A class that a tile does not show is predicted perfectly when no pixel is given to it: SMOOTH, in pixels,
keeps the quotient defined there.
"""

from __future__ import annotations

from typing import Any

from roundtable.tasks.classification import cross_entropy

SMOOTH = 1.0


def dice(y: Any, logits: Any) -> Any:
    """Masks [b, h, w] and logits [b, h, w, classes] → the mean over classes, one value a tile: [b]."""
    import tensorflow as tf

    truth = tf.one_hot(tf.cast(y, tf.int32), logits.shape[-1])  # [b, h, w, c]
    chances = tf.nn.softmax(logits)
    both = tf.reduce_sum(truth * chances, axis=(1, 2))  # [b, c]
    either = tf.reduce_sum(truth + chances, axis=(1, 2))
    return 1 - tf.reduce_mean((2 * both + SMOOTH) / (either + SMOOTH), axis=-1)


def dice_and_cross_entropy(y: Any, logits: Any) -> Any:
    """Dice plus the pixels' mean cross-entropy, which gives a slope where nothing overlaps yet: [b]."""
    import tensorflow as tf

    return dice(y, logits) + tf.reduce_mean(cross_entropy()(y, logits), axis=(1, 2))
