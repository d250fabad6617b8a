"""What weights are: arrays in a fixed order, described by a manifest.

Keras renames its variables from one model instance to the next and safetensors reorders what it stores, so
arrays are identified by position: the manifest, made once by the run's initialize order, fixes name, shape,
dtype and whether an array is trained, and every message of the run is read against it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Final

import numpy as np

from roundtable.errors import DtypeMismatch, ShapeMismatch
from roundtable.layout import CODES, DIMENSIONS, shown
from roundtable.types import Array

NAME_LIMIT: Final = 200  # characters; names end up in hashes, file headers and messages to people


@dataclass(frozen=True)
class ArraySpec:
    """One array: `name` is local ("kernel"), `dtype` a numpy name; `trainable` is false for batch statistics.

    Raises ShapeMismatch or DtypeMismatch when built from what no message can carry.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    trainable: bool = True

    def __post_init__(self) -> None:
        if not (0 < len(self.name) <= NAME_LIMIT and self.name.isprintable()):
            raise ShapeMismatch(
                f"array name {shown(self.name)}: 1 to {NAME_LIMIT} printable characters are allowed"
            )
        if len(self.shape) > DIMENSIONS or any(length < 0 for length in self.shape) or self.size >= 2**63:
            raise ShapeMismatch(
                f"array {self.name} has shape {shown(self.shape)}: at most {DIMENSIONS} sizes, none negative"
            )
        if self.dtype not in CODES:
            raise DtypeMismatch(
                f"array {self.name} has dtype {shown(self.dtype)}: allowed are {', '.join(CODES)}"
            )

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Manifest:
    """The specs of a model's arrays, in order."""

    arrays: tuple[ArraySpec, ...]

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash(self.arrays)

    @cached_property
    def nbytes(self) -> int:
        return sum(spec.nbytes for spec in self.arrays)

    @cached_property
    def size(self) -> int:
        """Number of parameters."""
        return sum(spec.size for spec in self.arrays)

    @cached_property
    def local_names(self) -> tuple[str, ...]:
        """What messages call the arrays within a group: position and name."""
        return tuple(f"{position:04d}/{spec.name}" for position, spec in enumerate(self.arrays))

    @cached_property
    def trainable(self) -> Manifest:
        """The trainable arrays only, in order."""
        return Manifest(tuple(spec for spec in self.arrays if spec.trainable))


@dataclass(frozen=True)
class Weights:
    """Arrays that fit a manifest: one type for weights, updates, broadcasts and client states alike.

    Raises ShapeMismatch or DtypeMismatch when built from arrays that do not fit.
    """

    manifest: Manifest
    arrays: tuple[Array, ...]

    def __post_init__(self) -> None:
        if len(self.arrays) != len(self.manifest.arrays):
            raise ShapeMismatch(
                f"{len(self.arrays)} arrays where the manifest has {len(self.manifest.arrays)}"
            )
        for position, (spec, array) in enumerate(zip(self.manifest.arrays, self.arrays, strict=True)):
            if tuple(array.shape) != spec.shape:
                raise ShapeMismatch(
                    f"array {position} ({spec.name}) has shape {tuple(array.shape)}, expected {spec.shape}"
                )
            if array.dtype != np.dtype(spec.dtype):
                raise DtypeMismatch(
                    f"array {position} ({spec.name}) has dtype {array.dtype}, expected {spec.dtype}"
                )

    @classmethod
    def of(cls, manifest: Manifest, arrays: Sequence[Array]) -> Weights:
        return cls(manifest, tuple(arrays))

    @classmethod
    def zeros(cls, manifest: Manifest) -> Weights:
        return cls(manifest, tuple(np.zeros(spec.shape, spec.dtype) for spec in manifest.arrays))
