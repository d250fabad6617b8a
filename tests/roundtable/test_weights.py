"""Weights fit their manifest, or are not made."""

from __future__ import annotations

import numpy as np
import pytest
from roundtable.errors import DtypeMismatch, ShapeMismatch
from roundtable.weights import ArraySpec, Manifest, Weights

MANIFEST = Manifest(
    (
        ArraySpec("kernel", (2, 3)),
        ArraySpec("mean", (3,), trainable=False),
        ArraySpec("count", (), "int64", trainable=False),
    )
)


class TestManifest:
    def test_counts_parameters_and_bytes(self) -> None:
        assert MANIFEST.size == 10
        assert MANIFEST.nbytes == 4 * 9 + 8

    def test_knows_which_arrays_are_trained(self) -> None:
        assert MANIFEST.trainable == Manifest((ArraySpec("kernel", (2, 3)),))

    def test_is_a_value(self) -> None:
        assert Manifest(tuple(MANIFEST.arrays)) == MANIFEST
        assert hash(Manifest(tuple(MANIFEST.arrays))) == hash(MANIFEST)


class TestArraySpec:
    @pytest.mark.parametrize("name", ["", "a\nb", "a\x00", "\ud800", "x" * 201])
    def test_refuses_names_that_would_break_the_hash_or_the_header(self, name: str) -> None:
        with pytest.raises(ShapeMismatch, match="array name"):
            ArraySpec(name, (1,))

    @pytest.mark.parametrize("shape", [(-1,), (2**40, 2**40), (1,) * 33])
    def test_refuses_shapes_that_no_array_can_have(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ShapeMismatch, match="array k has shape"):
            ArraySpec("k", shape)

    @pytest.mark.parametrize("dtype", ["object", "bfloat16", "complex64", "f4", "nonsense"])
    def test_refuses_dtypes_that_no_message_can_carry(self, dtype: str) -> None:
        with pytest.raises(DtypeMismatch, match=f"'{dtype}'"):
            ArraySpec("k", (1,), dtype)


class TestWeights:
    def test_zeros_fit(self) -> None:
        weights = Weights.zeros(MANIFEST)
        assert [array.dtype.name for array in weights.arrays] == ["float32", "float32", "int64"]
        assert Weights.of(MANIFEST, list(weights.arrays)).arrays == weights.arrays

    def test_a_missing_array_is_refused(self) -> None:
        with pytest.raises(ShapeMismatch, match="2 arrays where the manifest has 3"):
            Weights.of(MANIFEST, Weights.zeros(MANIFEST).arrays[:2])

    def test_another_shape_is_refused_by_position_and_name(self) -> None:
        kernel, mean, count = Weights.zeros(MANIFEST).arrays
        with pytest.raises(ShapeMismatch, match=r"array 0 \(kernel\) has shape \(3, 2\), expected \(2, 3\)"):
            Weights.of(MANIFEST, [kernel.T, mean, count])

    def test_another_dtype_is_refused_by_position_and_name(self) -> None:
        kernel, mean, count = Weights.zeros(MANIFEST).arrays
        with pytest.raises(DtypeMismatch, match=r"array 1 \(mean\) has dtype float64, expected float32"):
            Weights.of(MANIFEST, [kernel, mean.astype(np.float64), count])

    def test_another_byte_order_is_another_dtype(self) -> None:
        kernel, mean, count = Weights.zeros(MANIFEST).arrays
        with pytest.raises(DtypeMismatch):
            Weights.of(MANIFEST, [kernel.astype(">f4"), mean, count])
