"""Groups of weights as safetensors bytes and back, and the content hash that identifies them.

A message holds named groups of arrays: `weights`, `broadcast`, `update`, `state`, a server optimizer's slots.
A tensor is called `{group}/{position:04d}/{name}`; its data are little-endian. Writing joins nothing: it
hands out the header and views of the arrays. Reading copies nothing where it can: arrays are read-only views.

The content hash is BLAKE3 over one line for each array, all lines first, groups in alphabetical order and
arrays in manifest order,

    {group}/{position:04d}/{name} {F32|F16|I64|…} {d0xd1x…|scalar} {trainable|fixed}\\n

and then the raw data of all arrays in the same order, as on the wire. It never covers file bytes, so writers
in any language and any file order agree on it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Final, Literal, TypeAlias

import numpy as np
from blake3 import blake3
from pydantic import TypeAdapter, ValidationError

from roundtable.errors import DtypeMismatch, InvalidPayload, NotFinite, ShapeMismatch, TooLarge, Truncated
from roundtable.layout import (
    CODE_OF,
    CODES,
    DTYPES,
    HEADER_LIMIT,
    PREFIX,
    Buffer,
    Entry,
    Header,
    Usual,
    pack_header,
    read_header,
    read_metadata,
    shown,
)
from roundtable.types import Array, Digest
from roundtable.weights import ArraySpec, Manifest, Weights

__all__ = [
    "GROUPS",
    "METADATA_LIMIT",
    "Buffer",
    "Decoded",
    "Encoded",
    "Examined",
    "Form",
    "Groups",
    "Wire",
    "as_decoded",
    "content_hash",
    "decode",
    "decode_initial",
    "encode",
    "examine",
    "form_of",
    "groups_in",
    "hasher",
    "read_metadata",
    "size_limit",
]

Groups: TypeAlias = Mapping[str, Weights]
Wire: TypeAlias = Literal["float32", "float16"]

GROUPS: Final = ("weights", "broadcast", "update", "state")  # besides these: names of server-optimizer slots
METADATA_LIMIT: Final = 64 << 10  # bytes of an update's metadata; generous: an account takes about 1 kB
FLOAT16_OVERFLOWS: Final = 65520.0  # the smallest magnitude that float16 rounds to infinity
FORMS_KEPT: Final = 32  # a run has a few
BLOCK: Final = 1 << 16  # elements looked at together: 256 kB of float32 stay in a core's cache

_LITTLE = {code: np.dtype(name).newbyteorder("<") for code, name in DTYPES.items()}
_GROUP_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_ARRAYS = TypeAdapter(tuple[ArraySpec, ...])


@dataclass(frozen=True)
class Encoded:
    """What goes on the wire: the safetensors header, then each array's bytes, in the hash's order."""

    buffers: tuple[memoryview | bytes, ...]
    nbytes: int
    lines: bytes  # that the content hash begins with

    @cached_property
    def digest(self) -> Digest:
        """Worked out when it is asked for: who reads an update hashes what arrived."""
        return _digest(self.lines, self.buffers[1:])


@dataclass(frozen=True)
class Decoded:
    """Read-only views into the buffer (copies only where float16 became float32, or data lay unaligned)."""

    groups: dict[str, Weights]
    metadata: dict[str, str]
    digest: Digest


@dataclass(frozen=True)
class Examined:
    """A message that is what it should be: its arrays lie where the header says."""

    header: Header
    digest: Digest


def encode(groups: Groups, metadata: Mapping[str, str] = {}, wire: Wire = "float32") -> Encoded:
    """The message holding `groups`. wire = "float16" rounds each float32 array unless it would overflow.

    The buffers are views of the arrays where these are contiguous: do not change them before they are sent
    (and hashed).
    """
    form = _form_of(groups)
    sent, codes = _arrays(groups), form.codes
    if wire == "float16":
        sent = [_on_wire(array, wire) for array in sent]
        codes = [CODE_OF[array.dtype] for array in sent]
    if codes == form.codes:
        header = form.usual.pack(metadata)
    else:
        tensors = [(name, code, spec.shape) for (name, _, spec), code in zip(form.asked, codes, strict=True)]
        header = pack_header(tensors, metadata)
    data = [_bytes_of(array) for array in sent]
    return Encoded((header, *data), len(header) + sum(map(len, data)), form.lines_of(codes))


def as_decoded(weights: Weights, wire: Wire) -> Weights:
    """`weights` as their reader will see them: after float16 and back, where the wire is float16."""
    if wire == "float32":
        return weights
    arrays = (
        _on_wire(array, wire).astype(spec.dtype, copy=False)
        for spec, array in zip(weights.manifest.arrays, weights.arrays, strict=True)
    )
    return Weights(weights.manifest, tuple(arrays))


def content_hash(groups: Groups) -> Digest:
    """The hash of `groups` as they are, which is that of their float32 message."""
    return _digest(_form_of(groups).lines, [_bytes_of(array) for array in _arrays(groups)])


class Form(dict[str, Manifest]):
    """Which groups a message holds. As good as any mapping; what follows from them is worked out once."""

    @cached_property
    def asked(self) -> tuple[tuple[str, str, ArraySpec], ...]:
        """(tensor name, group, spec) in the hash's order."""
        for group in self:
            if not _GROUP_NAME.fullmatch(group):
                raise ValueError(f"a group cannot be called {group!r}")
        return tuple(
            (f"{group}/{name}", group, spec)
            for group in sorted(self)
            for name, spec in zip(self[group].local_names, self[group].arrays, strict=True)
        )

    @cached_property
    def names(self) -> dict[str, tuple[str, ...]]:
        """The tensor names of each group."""
        return {
            group: tuple(f"{group}/{name}" for name in manifest.local_names)
            for group, manifest in self.items()
        }

    @cached_property
    def header_limit(self) -> int:
        """Bytes: names escaped as \\uXXXX pairs, and room for every other writer's spacing."""
        arrays = (256 + 12 * len(name) + 24 * len(spec.shape) for name, _, spec in self.asked)
        return min(METADATA_LIMIT + sum(arrays), HEADER_LIMIT)

    @cached_property
    def size_limit(self) -> int:
        """No honest message of these groups is longer than this, in bytes, header included."""
        return PREFIX + self.header_limit + sum(manifest.nbytes for manifest in self.values())

    @cached_property
    def codes(self) -> list[str]:
        """Of the arrays' dtypes, in the hash's order."""
        return [CODES[spec.dtype] for _, _, spec in self.asked]

    @cached_property
    def float32(self) -> bool:
        """Whether all arrays are."""
        return set(self.codes) <= {"F32"}

    @cached_property
    def usual(self) -> Usual:
        """As our own writers make it, in the arrays' dtypes."""
        return Usual.of([(name, CODES[spec.dtype], spec.shape) for name, _, spec in self.asked])

    @cached_property
    def lines(self) -> bytes:
        """What the content hash begins with, in the arrays' dtypes."""
        return self._lines(self.codes)

    def lines_of(self, codes: list[str]) -> bytes:
        """The same, in the dtypes that are sent."""
        return self.lines if codes == self.codes else self._lines(codes)

    def _lines(self, codes: list[str]) -> bytes:
        pairs = zip(self.asked, codes, strict=True)
        return "".join(_line(name, code, spec) for (name, _, spec), code in pairs).encode()


def form_of(expected: Mapping[str, Manifest]) -> Form:
    return expected if isinstance(expected, Form) else _form(tuple(expected.items()))


def _form_of(groups: Groups) -> Form:
    return _form(tuple((group, weights.manifest) for group, weights in groups.items()))


@lru_cache(FORMS_KEPT)
def _form(groups: tuple[tuple[str, Manifest], ...]) -> Form:
    return Form(groups)


def hasher(expected: Mapping[str, Manifest]) -> blake3:
    """The content hash begun: fed with the float32 message's data in the hash's order, it has its digest."""
    return blake3(form_of(expected).lines)


def size_limit(expected: Mapping[str, Manifest]) -> int:
    """No honest message of these groups is longer than this, in bytes, header included."""
    return form_of(expected).size_limit


def decode(
    buffer: Buffer, expected: Mapping[str, Manifest], *, wire: Wire = "float32", finite: bool = True
) -> Decoded:
    """The message in `buffer`, which must hold exactly the `expected` groups, in any file order.

    With wire = "float16", float32 arrays may come as either and are float32 in the result. The arrays keep
    `buffer` alive (a memory map cannot be closed while one exists).
    Raises Truncated, TooLarge, ShapeMismatch, DtypeMismatch, NotFinite (where `finite`), InvalidPayload.
    """
    form = form_of(expected)
    examined = examine(buffer, form, wire=wire, finite=finite)
    return Decoded(groups_in(buffer, examined.header, form), examined.header.metadata, examined.digest)


def examine(
    buffer: Buffer, expected: Mapping[str, Manifest], *, wire: Wire = "float32", finite: bool = True
) -> Examined:
    """As `decode`, without making arrays of it."""
    form = form_of(expected)
    if (length := memoryview(buffer).nbytes) > form.size_limit:
        raise TooLarge(
            f"the message has {length} bytes, at most {form.size_limit} are allowed for these groups"
        )
    header = read_header(buffer, form.header_limit, form.usual)
    return Examined(header, _examined(buffer, header, form, wire, finite))


def groups_in(buffer: Buffer, header: Header, expected: Mapping[str, Manifest]) -> dict[str, Weights]:
    """The `expected` groups of an examined message."""
    view = memoryview(buffer).toreadonly()
    arrays: dict[str, list[Array]] = {group: [] for group in expected}
    for name, group, spec in form_of(expected).asked:
        arrays[group].append(_array(view, header.start, header.entries[name], spec))
    return {group: Weights(manifest, tuple(arrays[group])) for group, manifest in expected.items()}


def decode_initial(buffer: Buffer) -> Decoded:
    """The reply to an initialize order: group `weights`; its manifest is in the metadata `initialized`.

    Its length is for the caller to bound. Raises as `decode` does.
    """
    header = read_header(buffer)
    try:
        body = json.loads(header.metadata["initialized"])
        manifest = Manifest(_ARRAYS.validate_python(body["arrays"]))
    except KeyError as error:
        raise InvalidPayload(
            f"the first weights come without {error}: send it in the metadata `initialized`"
        ) from None
    except (
        ValidationError,
        TypeError,
        ValueError,
        RecursionError,
    ) as error:  # DtypeMismatch and the like pass
        raise InvalidPayload(f"metadata `initialized` cannot be read: {shown(str(error))}") from None
    form = Form({"weights": manifest})
    digest = _examined(buffer, header, form, "float32", True)
    return Decoded(groups_in(buffer, header, form), header.metadata, digest)


def _examined(buffer: Buffer, header: Header, form: Form, wire: Wire, finite: bool) -> Digest:
    try:
        return _looked_at(np.frombuffer(buffer, np.uint8), header, form, wire, finite)
    except InvalidPayload as error:
        # Without the frames that hold views of the buffer: a refused memory map can be closed at once.
        raise error.with_traceback(None) from None


def _looked_at(raw: Array, header: Header, form: Form, wire: Wire, finite: bool) -> Digest:
    usual = header.entries is form.usual.entries
    if not usual:
        _check_arrays(header, form, wire)
    if (length := len(raw) - header.start) < header.size:
        raise Truncated(f"the message holds {length} of {header.size} bytes of data: send it again, whole")
    if length > header.size:
        raise TooLarge(f"the message holds {length - header.size} bytes after its last array: send none")

    # Most files have the hash's order, and float32 alone: then their data are looked at in one go.
    data = raw[header.start :]
    entries = form.usual.in_order if usual else [header.entries[name] for name, _, _ in form.asked]
    hasher = blake3(form.lines if usual else form.lines_of([entry.code for entry in entries]))
    if usual or all(before.end == after.begin for before, after in pairwise(entries)):
        hasher.update(data.data)
    else:
        for entry in entries:
            hasher.update(data[entry.begin : entry.end].data)
    if form.float32 if usual else all(entry.code == "F32" for entry in entries):
        finite = finite and not _is_finite(data.view("<f4"))  # else to tell which
        if not finite:
            return hasher.hexdigest()
    for (name, _, _), entry in zip(form.asked, entries, strict=True):
        piece = data[entry.begin : entry.end]
        if finite and not _is_finite(piece.view(_LITTLE[entry.code])):
            raise NotFinite(
                f"array {name} holds NaN or infinity: the training diverged; lower the learning rate"
            )
        if entry.code == "BOOL" and piece.size and piece.max() > 1:
            raise InvalidPayload(f"array {name} holds bytes other than 0 and 1 for BOOL")
    return hasher.hexdigest()


def _check_arrays(header: Header, form: Form, wire: Wire) -> None:
    """All that are asked for are there, as they are asked for, and no other."""
    names = [name for name, _, _ in form.asked]
    if unknown := header.entries.keys() - set(names):
        raise ShapeMismatch(f"array {shown(min(unknown))} is not asked for: {_asked(names)}")
    if missing := [name for name in names if name not in header.entries]:
        raise ShapeMismatch(f"array {shown(missing[0])} is missing: {_asked(names)}")
    for name, _, spec in form.asked:
        _check_fits(name, header.entries[name], spec, wire)


def _check_fits(name: str, entry: Entry, spec: ArraySpec, wire: Wire) -> None:
    if entry.shape != spec.shape:
        raise ShapeMismatch(f"array {name} has shape {shown(list(entry.shape))}, expected {list(spec.shape)}")
    allowed = [CODES[spec.dtype]]
    if wire == "float16" and spec.dtype == "float32":
        allowed.append("F16")
    if entry.code not in allowed:
        raise DtypeMismatch(f"array {name} has dtype {entry.code}, expected {' or '.join(allowed)}")


def _array(view: memoryview, start: int, entry: Entry, spec: ArraySpec) -> Array:
    """What lies in the read-only `view`, whose data begin at `start`, as an array of the spec's dtype and
    shape, read-only as well."""
    array: Array = np.ndarray(entry.shape, _LITTLE[entry.code], view, start + entry.begin)
    if not array.flags.aligned or entry.code != CODES[spec.dtype]:
        # After float16 arrays of odd length; C code may rely on alignment.
        array = array.astype(spec.dtype)
        array.flags.writeable = False
    return array


def _arrays(groups: Groups) -> list[Array]:
    """In the hash's order."""
    return [array for group in sorted(groups) for array in groups[group].arrays]


def _line(name: str, code: str, spec: ArraySpec) -> str:
    shape = "x".join(map(str, spec.shape)) or "scalar"
    return f"{name} {code} {shape} {'trainable' if spec.trainable else 'fixed'}\n"


def _digest(lines: bytes, data: Sequence[memoryview | bytes]) -> Digest:
    hasher = blake3(lines)
    for piece in data:
        hasher.update(piece)
    return hasher.hexdigest()


def _bytes_of(array: Array) -> memoryview:
    return np.frombuffer(np.ascontiguousarray(array), np.uint8).data


def _on_wire(array: Array, wire: Wire) -> Array:
    if wire == "float16" and array.dtype == np.float32 and not _overflows(array):
        return array.astype(np.float16)
    return array


def _blocks(array: Array) -> Iterator[Array]:
    flat = array.reshape(-1)
    return (flat[start : start + BLOCK] for start in range(0, flat.size, BLOCK))


def _overflows(array: Array) -> bool:
    """Whether float16 would round a value to infinity. (NaN stays NaN in either.)"""
    return any(bool((np.abs(block) >= FLOAT16_OVERFLOWS).any()) for block in _blocks(array))


def _is_finite(array: Array) -> bool:
    if array.dtype.kind != "f":
        return True
    # A sum of squares is finite only if all of them are; it may overflow where they are: then each is seen.
    with np.errstate(over="ignore", invalid="ignore"):
        return all(np.isfinite(np.dot(block, block)) or np.isfinite(block).all() for block in _blocks(array))


def _asked(names: list[str]) -> str:
    if len(names) > 1:
        return f"send {len(names)} arrays, {names[0]} to {names[-1]}"
    return f"send {names[0]} alone" if names else "send none"
