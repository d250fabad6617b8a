"""The safetensors file layout: where each array lies in a buffer of bytes, read without trust or copies.

A file is `N: u64 LE | N bytes of JSON | data`. The JSON maps each tensor's name to `dtype`, `shape` and
`data_offsets` (relative to the data), and `__metadata__` to text. This module knows nothing of manifests or
groups (codec does). It exists because the common safetensors writers neither keep an order nor stream, and
because a peer's header is checked here for what the format forbids: duplicate keys, gaps, overlaps, nesting.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from mmap import mmap
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np

from roundtable.errors import DtypeMismatch, InvalidPayload, TooLarge, Truncated

Buffer: TypeAlias = bytes | bytearray | memoryview | mmap

HEADER_LIMIT: Final = 16 << 20  # bytes; for files read before their manifest is known
ALIGNMENT: Final = 8  # bytes; the header is padded with spaces so that the data starts at a multiple
DIMENSIONS: Final = 32  # of an array, as in older numpy
PREFIX: Final = 8  # bytes; the header's length
_JSON: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)
_FIELDS: Final = frozenset({"dtype", "shape", "data_offsets"})

# safetensors' names ↔ numpy's. Quantised and bfloat16 tensors have no numpy dtype and are refused.
DTYPES: Final[dict[str, str]] = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
}
CODES: Final[dict[str, str]] = {name: code for code, name in DTYPES.items()}
CODE_OF: Final[dict[Any, str]] = {np.dtype(name): code for code, name in DTYPES.items()}
WIDTHS: Final[dict[str, int]] = {code: np.dtype(name).itemsize for code, name in DTYPES.items()}  # bytes


class Entry(NamedTuple):
    """One tensor: its code ("F32"), shape, and [begin, end) in bytes from the start of the data."""

    code: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class Header:
    """A file's table of contents. The data is [start, start + size) in bytes."""

    entries: dict[str, Entry]
    metadata: dict[str, str]
    start: int
    size: int


@dataclass(frozen=True)
class Usual:
    """The header that writers of ours give to these tensors. Files of one form differ in their metadata
    alone, so that only those need to be written or parsed."""

    table: bytes  # the tensors' part of the JSON, with the brace that ends it
    entries: dict[str, Entry]
    in_order: tuple[Entry, ...]  # the same
    size: int
    bare: bytes  # all of it, without metadata

    @classmethod
    def of(cls, tensors: Sequence[tuple[str, str, tuple[int, ...]]]) -> Usual:
        bare = pack_header(tensors, {})
        read = read_header(bare)
        table = bare[PREFIX:].rstrip(b" ")[1:]
        return cls(table, read.entries, tuple(read.entries.values()), read.size, bare)

    def pack(self, metadata: Mapping[str, str]) -> bytes:
        """What `pack_header` makes of the same."""
        if not metadata:
            return self.bare
        comma = b"," if self.entries else b""
        return _packed(b'{"__metadata__":' + _json(dict(metadata)) + comma + self.table)


def pack_header(tensors: Sequence[tuple[str, str, tuple[int, ...]]], metadata: Mapping[str, str]) -> bytes:
    """The first bytes of a file whose data are `tensors` (name, code, shape), in this order, without gaps."""
    table: dict[str, Any] = {}
    if metadata:
        table["__metadata__"] = dict(metadata)
    offset = 0
    for name, code, shape in tensors:
        end = offset + WIDTHS[code] * prod(shape)
        table[name] = {"dtype": code, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    return _packed(_json(table))


def _json(table: dict[str, Any]) -> bytes:
    return _JSON.encode(table).encode()


def _packed(text: bytes) -> bytes:
    text += b" " * (-(PREFIX + len(text)) % ALIGNMENT)
    return len(text).to_bytes(PREFIX, "little") + text


def read_header(buffer: Buffer, limit: int = HEADER_LIMIT, usual: Usual | None = None) -> Header:
    """The checked header of the file in `buffer`, which may be cut off anywhere after the header.

    `limit` is in bytes; `usual` is how it may end (what is read does not depend on it). Raises Truncated,
    TooLarge, DtypeMismatch (a dtype numpy lacks), InvalidPayload.
    """
    if usual is not None and len(usual.bare) <= limit and bytes(buffer[: len(usual.bare)]) == usual.bare:
        return Header(usual.entries, {}, len(usual.bare), usual.size)
    text = _header_text(buffer, limit)
    if usual is not None and (before := text.rstrip(b" ")).endswith(usual.table):
        before = before[: -len(usual.table)]
        if before == b"{":  # with other padding
            return Header(usual.entries, {}, PREFIX + len(text), usual.size)
        table = _parse(before[:-1] + b"}") if before.endswith(b",") else {}
        if table.keys() == {"__metadata__"}:
            return Header(usual.entries, _metadata(table["__metadata__"]), PREFIX + len(text), usual.size)
    table = _parse(text)
    metadata = _metadata(table.pop("__metadata__", {}))
    entries = {name: _entry(name, value) for name, value in table.items()}
    return Header(entries, metadata, PREFIX + len(text), _checked_size(entries))


def read_metadata(path: Path, limit: int = HEADER_LIMIT) -> dict[str, str]:
    """A file's metadata, without reading its data. Raises InvalidPayload and OSError."""
    with path.open("rb") as file:
        prefix = file.read(PREFIX)
        length = int.from_bytes(prefix, "little")
        return read_header(prefix + (file.read(length) if length <= limit else b""), limit).metadata


def _header_text(buffer: Buffer, limit: int) -> bytes:
    with memoryview(buffer) as whole, whole.cast("B") as view:
        if len(view) < PREFIX:
            raise Truncated(f"{len(view)} bytes are too few for a safetensors file: send the whole file")
        length = int.from_bytes(view[:PREFIX], "little")
        if length > limit:
            raise TooLarge(
                f"the safetensors header says {length} bytes, at most {limit} are allowed: send less metadata"
            )
        if len(view) < PREFIX + length:
            raise Truncated(
                f"the safetensors header is {len(view) - PREFIX} of {length} bytes: send the whole file"
            )
        return bytes(view[PREFIX : PREFIX + length])


def _parse(text: bytes) -> dict[str, Any]:
    if not text.startswith(b"{"):
        raise InvalidPayload("the safetensors header is not a JSON object: it must begin with {")
    try:
        table = json.loads(
            text.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_int=_small_int,
            parse_float=_no_number,
            parse_constant=_no_number,
        )
    except RecursionError:
        raise InvalidPayload(
            "the safetensors header is nested too deeply: three levels are all it has"
        ) from None
    except ValueError as error:  # includes UnicodeDecodeError and JSONDecodeError
        raise InvalidPayload(f"the safetensors header is not JSON ({str(error)[:200]!r})") from None
    if not isinstance(table, dict):  # unreachable for text that begins with {, but json's type says Any
        raise InvalidPayload("the safetensors header is not a JSON object")
    return table


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise InvalidPayload(f"{shown(twice)} is named twice in the safetensors header: name each array once")
    return table


def _small_int(digits: str) -> int:
    if len(digits) > 19:
        raise InvalidPayload("the safetensors header holds a number of more than 19 digits")
    return int(digits)


def _no_number(text: str) -> float:
    raise InvalidPayload(
        f"the safetensors header holds {text[:20]!r}: only whole numbers have a meaning there"
    )


def _metadata(table: Any) -> dict[str, str]:
    if not isinstance(table, dict):
        raise InvalidPayload("__metadata__ of the safetensors header is not an object of texts")
    for key, value in table.items():
        if not isinstance(value, str):
            raise InvalidPayload(f"metadata {shown(key)} is not a text: encode it as a JSON string")
        for text in (key, value):
            try:
                text.encode()
            except UnicodeEncodeError:
                raise InvalidPayload(
                    f"metadata {shown(key)} holds half of a surrogate pair: send UTF-8"
                ) from None
    return table


def _entry(name: str, value: Any) -> Entry:
    if not isinstance(value, dict) or value.keys() != _FIELDS:
        raise InvalidPayload(
            f"{shown(name)} of the safetensors header needs dtype, shape and data_offsets, and no more"
        )
    code, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    width = WIDTHS.get(code) if isinstance(code, str) else None
    if width is None:
        raise DtypeMismatch(f"{shown(name)} has dtype {shown(code)}: allowed are {', '.join(DTYPES)}")
    if not _whole_numbers(shape) or len(shape) > DIMENSIONS:
        raise InvalidPayload(
            f"{shown(name)} has shape {shown(shape)}: a list of at most {DIMENSIONS} sizes is needed"
        )
    if not _whole_numbers(offsets) or len(offsets) != 2:
        raise InvalidPayload(f"{shown(name)} has data_offsets {shown(offsets)}: [begin, end] is needed")
    begin, end = offsets
    nbytes = prod(shape) * width
    if end - begin != nbytes:
        raise InvalidPayload(f"{shown(name)} spans {end - begin} bytes, its shape and dtype need {nbytes}")
    return Entry(code, tuple(shape), begin, end)


def _whole_numbers(value: Any) -> bool:
    if not isinstance(value, list):
        return False
    for item in value:  # noqa: SIM110 -- a generator costs more than the look itself
        if type(item) is not int or item < 0:
            return False
    return True


def _checked_size(entries: Mapping[str, Entry]) -> int:
    """The data's length in bytes. Raises InvalidPayload where arrays overlap or leave a gap."""
    reached = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != reached:
            fault = "overlaps the array before it" if entry.begin < reached else "leaves a gap before it"
            raise InvalidPayload(
                f"{shown(name)} begins at byte {entry.begin} of the data and {fault}, which ends at {reached}"
            )
        reached = entry.end
    return reached


def shown(found: object) -> str:
    """A stranger's value in one bounded, printable line."""
    text = ascii(found)
    return text if len(text) <= 100 else text[:97] + "..."
