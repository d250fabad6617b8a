"""Synthetic satellite scenes with their masks: fractal clouds over varied ground, with the shadows they cast.

They stand in for real pictures on machines without any, and are called synthetic wherever they show. Clouds
are value noise of several octaves; what exceeds a level is cloud, the further the thicker. A shadow is the
thickness moved away from the sun. Only the generator's draws and + − × ÷ on float64, which IEEE 754 fixes to
the bit, are used, so that the same seed gives the same bytes on every machine: no sums, no exp, no FFT.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

import numpy as np

from roundtable.types import Array, Float64

Part: TypeAlias = Literal["train", "test"]

SIDE: Final = 4  # a scene is so many tiles wide and high, which are therefore alike
THIN, THICK = 0.12, 0.5  # thickness, 0 … 1, from which a pixel is a thin or a thick cloud
SHADED: Final = 0.3  # thickness of the cloud that a shadow is of
CLEAR: Final = 0.1  # the share of scenes without a cloud

#                red, green, blue, near infrared
GROUNDS: Final = {
    "sea": (20, 42, 72, 14),
    "forest": (38, 62, 36, 140),
    "fields": (98, 108, 62, 152),
    "desert": (172, 142, 106, 186),
    "city": (122, 118, 114, 108),
}
CLOUD: Final = (236, 238, 243, 228)


def tiles(
    count: int, size: int, bands: int, seed: int, part: Literal["train", "test"]
) -> tuple[Array, Array]:
    """uint8 tiles [count, size, size, bands], red first, and uint8 masks [count, size, size] of 0 … 3.

    The first `count` tiles of an endless row of scenes; train and test have scenes of their own.
    """
    each = SIDE * SIDE
    x = np.empty((-(-count // each), each, size, size, bands), np.uint8)
    y = np.empty(x.shape[:-1], np.uint8)
    for number in range(len(x)):
        image, mask = scene(SIDE * size, size, seed, part, number)
        x[number] = _cut(image[..., :bands], size)
        y[number] = _cut(mask, size)
    return x.reshape(-1, size, size, bands)[:count], y.reshape(-1, size, size)[:count]


def scene(
    size: int, scale: int, seed: int, part: Literal["train", "test"], number: int
) -> tuple[Array, Array]:
    """One scene: uint8 [size, size, 4], red, green, blue, near infrared, and its mask [size, size]. `scale`:
    the pixels across a large cloud."""
    words = [seed, 0xC10D, ("train", "test").index(part), number]
    draw = np.random.Generator(np.random.PCG64(np.random.SeedSequence(words)))
    cover = 0.0 if draw.random() < CLEAR else 0.15 + 0.55 * draw.random()
    softness = 0.03 + 0.22 * draw.random()  # little: sharp thick clouds; much: veils
    reach = max(scale // 4, 2)  # shadows are moved by so many pixels at most
    above = _thickness(draw, size + 2 * reach, scale, cover, softness)
    dy, dx = (int(draw.integers(reach // 3, reach + 1)) * (1 - 2 * int(draw.integers(2))) for _ in range(2))

    def seen(down: int, right: int) -> Float64:
        return above[reach + down : reach + down + size, reach + right : reach + right + size]

    cloud, shadow = seen(0, 0), seen(dy, dx)
    mask = np.zeros((size, size), np.uint8)
    mask[shadow > SHADED] = 3
    mask[cloud > THIN] = 2
    mask[cloud > THICK] = 1
    ground = _ground(draw, size, scale) * (1 - 0.6 * shadow)[..., None]
    opaque = (cloud * (1.6 - 0.65 * cloud))[..., None]
    lit = np.array(CLOUD, np.float64) * (0.8 + 0.2 * _fractal(draw, size, max(scale // 4, 2)))[..., None]
    image = ground * (1 - opaque) + lit * opaque + draw.integers(-5, 6, (size, size, 4))
    return np.clip(image, 0, 255).astype(np.uint8), mask


def _thickness(draw: np.random.Generator, size: int, scale: int, cover: float, softness: float) -> Float64:
    field = _fractal(draw, size, scale)
    if not cover:
        return np.zeros_like(field)
    level = np.sort(field, axis=None)[int((1 - cover) * (field.size - 1))]
    return np.asarray(np.clip((field - level) / softness, 0, 1), np.float64)


def _ground(draw: np.random.Generator, size: int, scale: int) -> Float64:
    """Two kinds of ground with a soft border, brighter and darker from place to place: [size, size, 4]."""
    kinds = draw.permutation(len(GROUNDS))[:2]
    one, other = (np.array(list(GROUNDS.values())[kind], np.float64) for kind in kinds)
    border = np.clip((_fractal(draw, size, 2 * scale) - 0.5) * 12 + 0.5, 0, 1)[..., None]
    texture = 0.7 + 0.6 * _fractal(draw, size, max(scale // 2, 2))[..., None]
    return (one * border + other * (1 - border)) * texture


def _fractal(draw: np.random.Generator, size: int, scale: int) -> Float64:
    """Value noise, octave by octave half as wide and half as strong: [size, size], 0 … 1, about ½."""
    total, strength, weights = np.zeros((size, size)), 1.0, 0.0
    while scale >= 2:
        total = total + strength * _noise(draw, size, scale)
        weights += strength
        scale, strength = scale // 2, strength / 2
    return total / weights


def _noise(draw: np.random.Generator, size: int, scale: int) -> Float64:
    """Random values on a grid `scale` pixels wide, smoothly in between: [size, size], 0 … 1."""
    grid = draw.random((size // scale + 2, size // scale + 2))
    at = np.arange(size)
    cell, within = at // scale, (at % scale + 0.5) / scale
    within = within * within * (3 - 2 * within)
    rows = grid[cell] * (1 - within)[:, None] + grid[cell + 1] * within[:, None]  # [size, cells]
    return rows[:, cell] * (1 - within) + rows[:, cell + 1] * within


def _cut(picture: Array, size: int) -> Array:
    """[SIDE·size, SIDE·size, …] → [SIDE², size, size, …], row by row."""
    rest = picture.shape[2:]
    split = picture.reshape(SIDE, size, SIDE, size, *rest)
    return np.swapaxes(split, 1, 2).reshape(SIDE * SIDE, size, size, *rest)
