"""Groups of weights become bytes and come back; whatever else comes is refused by name."""

from __future__ import annotations

import json
import mmap
import tracemalloc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from blake3 import blake3
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from roundtable.codec import (
    Encoded,
    as_decoded,
    content_hash,
    decode,
    decode_initial,
    encode,
    read_metadata,
    size_limit,
)
from roundtable.errors import (
    DtypeMismatch,
    InvalidPayload,
    NotFinite,
    ShapeMismatch,
    TooLarge,
    Truncated,
)
from roundtable.layout import DTYPES, Usual, pack_header, read_header
from roundtable.weights import ArraySpec, Manifest, Weights

CODES = {name: code for code, name in DTYPES.items()}


def joined(message: Encoded) -> bytes:
    return b"".join(message.buffers)


def weights_of(*arrays: np.ndarray, fixed: Sequence[int] = ()) -> Weights:
    specs = [
        ArraySpec(f"a{position}", array.shape, array.dtype.name, position not in fixed)
        for position, array in enumerate(arrays)
    ]
    return Weights.of(Manifest(tuple(specs)), arrays)


def small() -> Weights:
    kernel = np.arange(6, dtype=np.float32).reshape(2, 3) / 7
    return weights_of(kernel, np.array(3, np.int64), np.ones(5, np.float32), fixed=[1])


def manifests(groups: Mapping[str, Weights]) -> dict[str, Manifest]:
    return {group: weights.manifest for group, weights in groups.items()}


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray:
    dtype = draw(st.sampled_from(["float32"] * 6 + sorted(CODES)))
    shape = draw(npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5))
    elements = {"allow_nan": False, "allow_infinity": False} if np.dtype(dtype).kind == "f" else {}
    return draw(npst.arrays(dtype, shape, elements=elements))


@st.composite
def messages(draw: st.DrawFn) -> dict[str, Weights]:
    names = draw(
        st.lists(st.sampled_from(["weights", "broadcast", "state", "velocity"]), max_size=3, unique=True)
    )
    label = st.text(st.characters(codec="utf-8", categories=["L", "N", "P"]), min_size=1, max_size=8)
    groups = {}
    for name in names:
        content = draw(st.lists(arrays(), max_size=4))
        specs = tuple(ArraySpec(draw(label), a.shape, a.dtype.name, draw(st.booleans())) for a in content)
        groups[name] = Weights.of(Manifest(specs), content)
    return groups


def described_hash(groups: Mapping[str, Weights], sent: Mapping[tuple[str, int], np.ndarray]) -> str:
    """The content hash, written from docs/protocol.md's words alone. `sent`: what went as another dtype."""
    lines, data = "", b""
    for group in sorted(groups):
        manifest = groups[group].manifest
        for position, spec in enumerate(manifest.arrays):
            array = sent.get((group, position), groups[group].arrays[position])
            shape = "x".join(str(length) for length in spec.shape) or "scalar"
            kind = "trainable" if spec.trainable else "fixed"
            lines += f"{group}/{position:04d}/{spec.name} {CODES[array.dtype.name]} {shape} {kind}\n"
            data += array.tobytes()
    return blake3(lines.encode() + data).hexdigest()


class TestRoundTrip:
    @given(messages(), st.dictionaries(st.text(max_size=5), st.text(max_size=9), max_size=3))
    def test_what_was_encoded_comes_back_bit_by_bit(
        self, groups: dict[str, Weights], metadata: dict[str, str]
    ) -> None:
        message = encode(groups, metadata)
        body = joined(message)
        assert message.nbytes == len(body) <= size_limit(manifests(groups))
        result = decode(body, manifests(groups))
        assert result.metadata == metadata
        assert result.groups.keys() == groups.keys()
        for group, weights in groups.items():
            assert result.groups[group].manifest == weights.manifest
            for ours, theirs in zip(result.groups[group].arrays, weights.arrays, strict=True):
                assert ours.tobytes() == theirs.tobytes()

    @given(messages())
    def test_the_hash_is_what_the_protocol_describes_on_every_path(self, groups: dict[str, Weights]) -> None:
        message = encode(groups)
        assert message.digest == described_hash(groups, {}) == content_hash(groups)
        assert decode(joined(message), manifests(groups)).digest == message.digest

    @given(messages())
    def test_float16_is_read_as_its_writer_says_it_will_be(self, groups: dict[str, Weights]) -> None:
        message = encode(groups, wire="float16")
        result = decode(joined(message), manifests(groups), wire="float16")
        sent = {}
        for group, weights in groups.items():
            seen = as_decoded(weights, "float16")
            for position, array in enumerate(weights.arrays):
                assert result.groups[group].arrays[position].tobytes() == seen.arrays[position].tobytes()
                if array.dtype == np.float32:
                    with np.errstate(over="ignore"):
                        half = array.astype(np.float16)
                    if not np.isinf(half).any():
                        sent[group, position] = half
        assert message.digest == result.digest == described_hash(groups, sent)

    def test_float16_keeps_an_array_that_would_overflow_as_float32(self) -> None:
        weights = weights_of(
            np.array([65519.0], np.float32), np.array([65520.0], np.float32), np.array([-1e9, 1], np.float32)
        )
        message = encode({"update": weights}, wire="float16")
        result = decode(joined(message), {"update": weights.manifest}, wire="float16").groups["update"]
        assert [array.tolist() for array in result.arrays] == [[65504.0], [65520.0], [-1e9, 1.0]]

    def test_float32_is_seen_as_it_is(self) -> None:
        weights = small()
        assert as_decoded(weights, "float32") is weights

    def test_arrays_that_are_not_contiguous_are_sent_in_c_order(self) -> None:
        array = np.arange(12, dtype=np.float32).reshape(3, 4)
        turned, straight = weights_of(array.T), weights_of(np.ascontiguousarray(array.T))
        assert joined(encode({"weights": turned})) == joined(encode({"weights": straight}))
        assert content_hash({"weights": turned}) == content_hash({"weights": straight})

    def test_the_hash_tells_apart_what_only_the_manifest_tells_apart(self) -> None:
        array = np.zeros((2, 2), np.float32)
        variants = [
            {"weights": weights_of(array)},
            {"update": weights_of(array)},
            {"weights": weights_of(array, fixed=[0])},
            {"weights": weights_of(array.reshape(4))},
            {"weights": weights_of(array.view(np.int32))},
            {"weights": Weights.of(Manifest((ArraySpec("other", (2, 2)),)), [array])},
            {"weights": weights_of(array[:1], array[1:])},
        ]
        assert len({content_hash(groups) for groups in variants}) == len(variants)


class TestCopies:
    @pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
    def test_reading_looks_into_the_buffer_and_may_not_change_it(self, kind: Any) -> None:
        weights = small()
        buffer = kind(joined(encode({"weights": weights})))
        for array in decode(buffer, {"weights": weights.manifest}).groups["weights"].arrays:
            assert np.shares_memory(array, np.frombuffer(buffer, np.uint8))
            assert not array.flags.writeable

    def test_reading_looks_into_a_memory_map(self, tmp_path: Path) -> None:
        weights = small()
        path = tmp_path / "update.safetensors"
        path.write_bytes(joined(encode({"weights": weights})))
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as buffer:
            result = decode(buffer, {"weights": weights.manifest})
            assert np.shares_memory(result.groups["weights"].arrays[0], np.frombuffer(buffer, np.uint8))
            assert result.digest == content_hash({"weights": weights})
            del result

    def test_a_memory_map_that_was_refused_can_be_closed_while_the_error_is_handled(
        self, tmp_path: Path
    ) -> None:
        weights = weights_of(np.array([np.nan], np.float32))
        path = tmp_path / "update.safetensors"
        path.write_bytes(joined(encode({"weights": weights})))
        with (
            pytest.raises(NotFinite),
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as buffer,
        ):
            decode(buffer, {"weights": weights.manifest})

    def test_writing_hands_out_views_of_the_arrays(self) -> None:
        weights = small()
        header, *data = encode({"weights": weights}).buffers
        assert len(header) % 8 == 0
        for view, array in zip(data, weights.arrays, strict=True):
            assert np.shares_memory(np.frombuffer(view, np.uint8), array)

    def test_arrays_that_lie_unaligned_are_copied_to_where_they_may_be_used(self) -> None:
        weights = weights_of(np.ones(3, np.float16), np.array([1.5, 2.5], np.float32))
        body = joined(encode({"update": weights}))
        result = decode(body, {"update": weights.manifest}).groups["update"]
        assert result.arrays[1].flags.aligned
        assert result.arrays[1].tolist() == [1.5, 2.5]

    def test_neither_way_takes_memory_that_grows_with_the_model(self) -> None:
        weights = weights_of(np.ones(5_000_000, np.float32))  # 20 MB
        buffer = joined(encode({"update": weights}))
        tracemalloc.start()
        try:
            encode({"update": weights})
            decode(buffer, {"update": weights.manifest})
            assert tracemalloc.get_traced_memory()[1] < 1_000_000
        finally:
            tracemalloc.stop()


def file_of(table: Any, data: bytes = b"") -> bytes:
    """A file with any JSON as its header."""
    text = table if isinstance(table, bytes) else json.dumps(table).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(shape: list[int], begin: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


TWO = {"update": Manifest((ArraySpec("k", (2,)), ArraySpec("b", (1,))))}
K, B = "update/0000/k", "update/0001/b"
GOOD = {K: entry([2], 0, 8), B: entry([1], 8, 12)}
DATA = np.array([1, 2, 3], "<f4").tobytes()


class TestOtherWriters:
    def test_the_hash_does_not_depend_on_the_order_in_the_file(self) -> None:
        forwards = decode(file_of(GOOD, DATA), TWO)
        moved = {B: entry([1], 0, 4), K: entry([2], 4, 12)}
        backwards = decode(file_of(moved, DATA[8:] + DATA[:8]), TWO)
        assert backwards.digest == forwards.digest
        assert [array.tolist() for array in backwards.groups["update"].arrays] == [[1, 2], [3]]

    def test_a_spaciously_written_header_is_within_the_limit(self) -> None:
        text = json.dumps(GOOD, indent=8).encode() + b" " * 100
        body = file_of(text, DATA)
        assert len(body) <= size_limit(TWO)
        assert decode(body, TWO).digest == decode(file_of(GOOD, DATA), TWO).digest

    def test_the_safetensors_package_reads_what_we_write(self) -> None:
        safetensors = pytest.importorskip("safetensors.numpy")
        weights = small()
        body = joined(encode({"weights": weights}, {"account": '{"num_examples": 1}'}))
        read = safetensors.load(body)
        assert sorted(read) == sorted(f"weights/{i:04d}/a{i}" for i in range(3))
        for i, array in enumerate(weights.arrays):
            assert read[f"weights/{i:04d}/a{i}"].tobytes() == array.tobytes()

    @pytest.mark.parametrize("wire", ["float32", "float16"])
    def test_we_read_what_the_safetensors_package_writes(self, wire: Any) -> None:
        safetensors = pytest.importorskip("safetensors.numpy")
        weights = as_decoded(small(), wire)
        tensors = {
            f"update/{i:04d}/a{i}": array.astype("float16")
            if wire == "float16" and array.dtype == np.float32
            else array
            for i, array in enumerate(weights.arrays)
        }
        body = safetensors.save(tensors, {"account": "{}"})
        result = decode(body, {"update": weights.manifest}, wire=wire)
        assert result.digest == encode({"update": weights}, wire=wire).digest
        assert result.metadata == {"account": "{}"}
        for ours, array in zip(result.groups["update"].arrays, weights.arrays, strict=True):
            assert ours.tobytes() == array.tobytes()


NAN = np.array([1, np.nan, 3], "<f4").tobytes()
INFINITE = np.array([1, 2, -np.inf], "<f4").tobytes()
HUGE = (1 << 63).to_bytes(8, "little")

REFUSED: dict[str, tuple[bytes, type[InvalidPayload], str]] = {
    "nothing": (b"", Truncated, "0 bytes"),
    "half a prefix": (b"\x10\0\0", Truncated, "3 bytes"),
    "half a header": (file_of(GOOD)[:40], Truncated, "of"),
    "no data": (file_of(GOOD), Truncated, "0 of 12 bytes"),
    "half the data": (file_of(GOOD, DATA[:7]), Truncated, "7 of 12 bytes"),
    "a byte too many": (file_of(GOOD, DATA + b"\0"), TooLarge, "1 bytes after"),
    "far too many": (file_of(GOOD, DATA + bytes(200_000)), TooLarge, "at most"),
    "a header that claims exabytes": (HUGE + b"{}", TooLarge, "9223372036854775808"),
    "a header that is no object": (file_of([1]), InvalidPayload, "begin with {"),
    "a header that is no JSON": (file_of(b'{"a":'), InvalidPayload, "not JSON"),
    "a header that is no UTF-8": (file_of(b'{"\xff": 1}'), InvalidPayload, "not JSON"),
    "a deep header": (file_of(b'{"a":' + b"[" * 60_000), InvalidPayload, "nested"),
    "a header of one long number": (file_of(b'{"a":' + b"9" * 50_000 + b"}"), InvalidPayload, "19 digits"),
    "a header with a fraction": (file_of(b'{"a":1.5}'), InvalidPayload, "1.5"),
    "a header with NaN": (file_of(b'{"a":NaN}'), InvalidPayload, "NaN"),
    "an empty table": (file_of({}), ShapeMismatch, "missing"),
    "an array missing": (file_of({K: entry([2], 0, 8)}, DATA[:8]), ShapeMismatch, B),
    "an array unknown": (file_of({**GOOD, "x": entry([0], 12, 12)}, DATA), ShapeMismatch, "'x'"),
    "an array named twice": (
        file_of(b'{"a":{"dtype":"F32"},"a":{"dtype":"F32"}}'),
        InvalidPayload,
        "'a' is named twice",
    ),
    "an array of another shape": (file_of({**GOOD, K: entry([1, 2], 0, 8)}, DATA), ShapeMismatch, K),
    "an array of another dtype": (file_of({**GOOD, K: entry([2], 0, 8, "I32")}, DATA), DtypeMismatch, "I32"),
    "float16 where float32 was agreed": (
        file_of({K: entry([2], 0, 4, "F16"), B: entry([1], 4, 8)}, DATA[:8]),
        DtypeMismatch,
        "F16",
    ),
    "a dtype numpy lacks": (file_of({K: entry([2], 0, 4, "BF16")}), DtypeMismatch, "BF16"),
    "a dtype that is a list": (file_of({K: {**GOOD[K], "dtype": ["F32"]}}), DtypeMismatch, "F32"),
    "an entry without offsets": (
        file_of({K: {"dtype": "F32", "shape": [2]}}),
        InvalidPayload,
        "data_offsets",
    ),
    "an entry with more": (file_of({K: {**GOOD[K], "strides": []}}), InvalidPayload, "no more"),
    "an entry that is a number": (file_of({K: 3}), InvalidPayload, K),
    "a negative size": (file_of({K: entry([-2], 0, 8)}), InvalidPayload, "[-2]"),
    "a size that is true": (
        file_of(json.dumps(GOOD).replace("[2]", "[true]").encode()),
        InvalidPayload,
        "True",
    ),
    "too many dimensions": (file_of({K: entry([1] * 33, 0, 4)}), InvalidPayload, "at most 32"),
    "three offsets": (file_of({K: {**GOOD[K], "data_offsets": [0, 4, 8]}}), InvalidPayload, "[begin, end]"),
    "offsets the wrong way round": (file_of({K: entry([2], 8, 0)}), InvalidPayload, "-8 bytes"),
    "offsets of another length": (file_of({K: entry([2], 0, 12)}, DATA), InvalidPayload, "need 8"),
    "a shape that overflows": (file_of({K: entry([2**62, 2**62], 0, 0)}), InvalidPayload, "spans 0"),
    "arrays that overlap": (
        file_of({K: entry([2], 0, 8), B: entry([1], 4, 8)}, DATA[:8]),
        InvalidPayload,
        "overlaps",
    ),
    "arrays with a gap": (
        file_of({K: entry([2], 0, 8), B: entry([1], 12, 16)}, DATA + DATA[:4]),
        InvalidPayload,
        "gap",
    ),
    "a gap at the start": (file_of({K: entry([2], 4, 12), B: entry([1], 12, 16)}), InvalidPayload, "gap"),
    "metadata that is a list": (file_of({**GOOD, "__metadata__": []}, DATA), InvalidPayload, "__metadata__"),
    "metadata that is not text": (
        file_of({**GOOD, "__metadata__": {"account": {}}}, DATA),
        InvalidPayload,
        "account",
    ),
    "metadata with half a character": (
        file_of(b'{"__metadata__":{"a":"\\ud800"}}'),
        InvalidPayload,
        "surrogate",
    ),
    "metadata without end": (
        file_of({**GOOD, "__metadata__": {"a": "x" * 80_000}}, DATA),
        TooLarge,
        "at most",
    ),
    "a NaN": (file_of(GOOD, NAN), NotFinite, K),
    "an infinity": (file_of(GOOD, INFINITE), NotFinite, B),
}


class TestRefusals:
    @pytest.mark.parametrize("case", REFUSED)
    def test_refuses(self, case: str) -> None:
        body, kind, words = REFUSED[case]
        with pytest.raises(kind) as caught:
            decode(body, TWO)
        assert words in str(caught.value)
        assert len(str(caught.value)) < 300
        assert "\n" not in str(caught.value)

    def test_the_file_they_are_made_from_is_good(self) -> None:
        assert decode(file_of(GOOD, DATA), TWO).groups["update"].arrays[0].tolist() == [1, 2]

    def test_not_finite_is_let_through_where_asked(self) -> None:
        result = decode(file_of(GOOD, NAN), TWO, finite=False)
        assert np.isnan(result.groups["update"].arrays[0][1])

    @pytest.mark.parametrize("position", [0, 65_535, 65_536, 99_999])
    @pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
    def test_one_value_that_is_not_finite_is_found_wherever_it_is(self, dtype: str, position: int) -> None:
        array = np.full(100_000, 3e4, dtype)
        array[position] = np.inf
        weights = weights_of(array)
        with pytest.raises(NotFinite):
            decode(joined(encode({"update": weights})), {"update": weights.manifest})

    def test_float16_that_holds_nan_is_refused_too(self) -> None:
        weights = weights_of(np.array([np.nan, 1], np.float32))
        message = encode({"update": weights}, wire="float16")
        with pytest.raises(NotFinite):
            decode(joined(message), {"update": weights.manifest}, wire="float16")

    def test_booleans_are_zero_or_one(self) -> None:
        expected = {"update": Manifest((ArraySpec("mask", (2,), "bool"),))}
        table = {"update/0000/mask": entry([2], 0, 2, "BOOL")}
        assert decode(file_of(table, b"\0\1"), expected).groups["update"].arrays[0].tolist() == [False, True]
        with pytest.raises(InvalidPayload, match="0 and 1"):
            decode(file_of(table, b"\0\2"), expected)

    def test_a_group_missing_or_unknown_is_an_array_missing_or_unknown(self) -> None:
        body = file_of(GOOD, DATA)
        with pytest.raises(ShapeMismatch, match="missing"):
            decode(body, {**TWO, "state": TWO["update"]})
        with pytest.raises(ShapeMismatch, match="not asked for"):
            decode(body, {})

    def test_a_group_name_that_would_break_names_is_a_bug_here(self) -> None:
        with pytest.raises(ValueError, match="group"):
            encode({"a/b": small()})


class TestMutations:
    """Whatever is done to a message, it is decoded or refused by type; nothing else is raised."""

    GROUPS: ClassVar = {
        "update": small(),
        "state": weights_of(np.ones(2, np.float32), np.zeros(3, np.float16)),
    }
    BODY = joined(encode(GROUPS, {"account": "{}"}))

    def survives(self, body: bytes) -> None:
        try:
            result = decode(body, manifests(self.GROUPS), wire="float16")
        except InvalidPayload:
            return
        assert manifests(result.groups) == manifests(self.GROUPS)

    @given(st.data())
    @settings(max_examples=300)
    def test_bytes_changed_inserted_and_removed(self, data: st.DataObject) -> None:
        body = bytearray(self.BODY)
        for _ in range(data.draw(st.integers(1, 4))):
            at = data.draw(st.integers(0, len(body)))
            removed = data.draw(st.integers(0, 3))
            body[at : at + removed] = data.draw(st.binary(max_size=3))
        self.survives(bytes(body))

    @given(st.binary(max_size=64), st.integers(0, 80))
    def test_any_bytes(self, tail: bytes, length: int) -> None:
        self.survives(tail)
        self.survives(length.to_bytes(8, "little") + b"{" + tail)

    @given(st.data())
    @settings(max_examples=300)
    def test_any_value_anywhere_in_the_header(self, data: st.DataObject) -> None:
        length = int.from_bytes(self.BODY[:8], "little")
        table = json.loads(self.BODY[8 : 8 + length])
        anything = st.recursive(
            st.none()
            | st.booleans()
            | st.integers()
            | st.floats()
            | st.text(max_size=5)
            | st.sampled_from(["F32", "F16", *table]),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets", "x"]), inner)
            ),
            max_leaves=6,
        )
        node, key = table, data.draw(st.sampled_from(sorted(table)))
        while isinstance(node[key], dict) and node[key] and data.draw(st.booleans()):
            node, key = node[key], data.draw(st.sampled_from(sorted(node[key])))
        if data.draw(st.booleans()):
            node[key] = data.draw(anything)
        else:
            node[data.draw(st.text(max_size=5))] = node.pop(key)
        self.survives(file_of(table, self.BODY[8 + length :]))


class TestInitial:
    def initial(self, weights: Weights, metadata: Mapping[str, str] | None = None) -> bytes:
        specs = [
            {"name": a.name, "shape": a.shape, "dtype": a.dtype, "trainable": a.trainable}
            for a in weights.manifest.arrays
        ]
        told = {"initialized": json.dumps({"arrays": specs})} if metadata is None else metadata
        return joined(encode({"weights": weights}, told))

    def test_the_manifest_comes_with_the_first_weights(self) -> None:
        weights = small()
        result = decode_initial(self.initial(weights))
        assert result.groups["weights"].manifest == weights.manifest
        assert result.digest == content_hash({"weights": weights})

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "[]",
            "3",
            "{}",
            '{"arrays": 3}',
            '{"arrays": [{"name": "k"}]}',
            "[" * 9_000,
        ],
    )
    def test_metadata_that_is_no_manifest_is_refused(self, text: str) -> None:
        with pytest.raises(InvalidPayload, match=r"initialized|arrays"):
            decode_initial(self.initial(small(), {"initialized": text}))

    def test_no_metadata_is_refused_by_name(self) -> None:
        with pytest.raises(InvalidPayload, match="without 'initialized'"):
            decode_initial(self.initial(small(), {}))

    def test_a_manifest_that_describes_other_arrays_is_refused(self) -> None:
        told = json.dumps({"arrays": [{"name": "a0", "shape": [2, 3]}]})
        with pytest.raises(ShapeMismatch):
            decode_initial(self.initial(small(), {"initialized": told}))

    def test_a_dtype_that_no_message_can_carry_is_refused(self) -> None:
        told = json.dumps({"arrays": [{"name": "a0", "shape": [2, 3], "dtype": "object"}]})
        with pytest.raises(DtypeMismatch, match="object"):
            decode_initial(self.initial(small(), {"initialized": told}))

    def test_first_weights_are_finite(self) -> None:
        with pytest.raises(NotFinite):
            decode_initial(self.initial(weights_of(np.array([np.inf], np.float32))))


class TestMetadata:
    def test_is_read_from_a_file_without_its_data(self, tmp_path: Path) -> None:
        path = tmp_path / "update.safetensors"
        header = encode({"weights": small()}, {"account": "größe"}).buffers[0]
        path.write_bytes(header)  # no data at all
        assert read_metadata(path) == {"account": "größe"}

    @pytest.mark.parametrize("body", [b"", b"\x10\0\0", (99).to_bytes(8, "little") + b"{}", HUGE + b"{}"])
    def test_of_a_broken_file_is_refused(self, tmp_path: Path, body: bytes) -> None:
        path = tmp_path / "update.safetensors"
        path.write_bytes(body)
        with pytest.raises(InvalidPayload):
            read_metadata(path)


class TestTheUsualHeader:
    """What is parsed in part reads as what is parsed whole."""

    USUAL = Usual.of([(K, "F32", (2,)), (B, "F32", (1,))])

    @settings(deadline=None)
    @given(
        st.one_of(
            st.binary(max_size=40),
            st.text(alphabet='{}[]":, \\_metadata1', max_size=40).map(str.encode),
            st.dictionaries(
                st.sampled_from(["__metadata__", K, "x"]), st.dictionaries(st.text(), st.text())
            ).map(lambda table: json.dumps(table).encode()[:-1]),
        ),
        st.sampled_from([b"", b","]),
        st.integers(0, 3),
    )
    @example(b'{"__metadata__":{"account":"{}"}', b",", 1)
    @example(b'{"__metadata__":{},"__metadata__":{}', b",", 0)
    @example(b'{"__metadata__":{}},{"x":1', b",", 0)
    @example(b'{"__metadata__":{"a":"b', b",", 0)
    @example(b'{"__metadata__":{}', b"", 0)
    @example(b"{", b"", 1)
    @example(b"{", b",", 0)
    def test_a_header_that_ends_so_reads_the_same(self, before: bytes, comma: bytes, spaces: int) -> None:
        text = before + comma + self.USUAL.table + b" " * spaces
        file = len(text).to_bytes(8, "little") + text
        assert self.read(file, self.USUAL) == self.read(file, None)

    @pytest.mark.parametrize("metadata", [{}, {"account": '{"é":1}', "b": ""}])
    def test_what_our_own_writer_makes_ends_so(self, metadata: dict[str, str]) -> None:
        header = bytes(encode({"update": Weights.zeros(TWO["update"])}, metadata).buffers[0])
        assert header == pack_header([(K, "F32", (2,)), (B, "F32", (1,))], metadata)
        found = read_header(header, usual=self.USUAL)
        assert found.entries is self.USUAL.entries and found.metadata == metadata

    @pytest.mark.parametrize("metadata", [{}, {"account": "{}"}])
    def test_so_does_a_message_without_arrays(self, metadata: dict[str, str]) -> None:
        usual = Usual.of([])
        assert usual.pack(metadata) == pack_header([], metadata)
        assert read_header(usual.pack(metadata), usual=usual) == read_header(usual.pack(metadata))

    @staticmethod
    def read(file: bytes, usual: Usual | None) -> Any:
        try:
            return read_header(file, usual=usual)
        except InvalidPayload:
            return InvalidPayload
