"""The model: a U-Net whose bottom is a cascade of dilated convolutions, summed.

Ronneberger et al. 2015 (arXiv:1505.04597) with the dilated bottleneck that Carvana's winners gave it: `depth`
levels of two 3×3 convolutions and a pool, `dilation` convolutions of rates 1, 2, 4, … one after the other,
their outputs added, and the way up again, each level with what its counterpart on the way down had.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True)
class Shape:
    """`filters` of the first level, doubled at each further one; `dilation` widens the field of view."""

    filters: int
    depth: int
    dilation: int
    dropout: float = 0.0
    batch_norm: bool = False


PRESETS: Final = {"small": Shape(8, 3, 3), "full": Shape(44, 3, 6)}


def model(size: int, bands: int, classes: int, shape: Shape) -> Any:
    """uint8 [b, size, size, bands] → logits [b, size, size, classes]."""
    import keras
    from keras import layers

    def convolved(x: Any, filters: int, rate: int = 1) -> Any:
        # Without a bias where batch normalization brings one.
        x = layers.Conv2D(
            filters,
            3,
            padding="same",
            dilation_rate=rate,
            use_bias=not shape.batch_norm,
            kernel_initializer="he_normal",
        )(x)
        if shape.batch_norm:
            x = layers.BatchNormalization(momentum=0.9)(x)
        return layers.Activation("relu")(x)

    inputs = keras.Input((size, size, bands), dtype="uint8")
    x = layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    levels = []
    for level in range(shape.depth):
        x = convolved(
            convolved(x, shape.filters * 2**level), shape.filters * 2**level
        )  # [b, s/2^l, s/2^l, f·2^l]
        levels.append(x)
        x = layers.MaxPooling2D()(x)
    bottom = []
    for step in range(shape.dilation):
        x = convolved(x, shape.filters * 2**shape.depth, rate=2**step)
        bottom.append(x)
    x = layers.Add()(bottom) if len(bottom) > 1 else bottom[0]
    if shape.dropout:
        x = layers.Dropout(shape.dropout)(x)
    for level, across in reversed(list(enumerate(levels))):
        filters = shape.filters * 2**level
        x = layers.Conv2DTranspose(
            filters, 3, strides=2, padding="same", activation="relu", kernel_initializer="he_normal"
        )(x)
        x = layers.Concatenate()([across, x])
        x = convolved(convolved(x, filters), filters)
    return keras.Model(inputs, layers.Conv2D(classes, 1)(x))
