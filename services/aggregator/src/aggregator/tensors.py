"""Messages as files: read in place through a memory map, and written a block at a time.

Between `codec`, which says what a message is, and `fold`, which never wants a whole one in memory.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import TracebackType

import numpy as np
from roundtable.codec import Buffer, Form, form_of, hasher
from roundtable.errors import CorruptStore, InvalidPayload, Truncated
from roundtable.layout import CODES, DTYPES, Header, read_header
from roundtable.types import Array, Digest
from roundtable.weights import Manifest

from aggregator.disk import Place


def map_file(path: Place) -> Buffer:
    """The file's bytes, read-only, without reading them. Raises Truncated for an empty one, and OSError."""
    with Path(path).open("rb") as file:
        try:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:
            raise Truncated(f"{Path(path).name} is empty: send the arrays as safetensors") from None


def damaged(path: Place, error: InvalidPayload | FileNotFoundError) -> CorruptStore:
    """What to say of a stored file that is not what it should be."""
    fault = "is missing" if isinstance(error, FileNotFoundError) else f"is damaged ({error})"
    return CorruptStore(f"{path} {fault}: put it back from a copy, or start the run anew")


@dataclass(frozen=True)
class Span:
    """Neighbouring arrays of a group that are worked on as one flat array: positions [first, last]."""

    first: int
    last: int


class Mapped:
    """A stored message whose arrays are seen as they lie in the file: flat, read-only, float16 as float16."""

    def __init__(
        self,
        path: Place,
        expected: Mapping[str, Manifest],
        content: Buffer | None = None,
        header: Header | None = None,
    ) -> None:
        """`content`, `header`: the file's bytes, where they are in memory, and what they begin with, where it
        was read before. Raises CorruptStore where the file is not a message of these groups; the data are not
        looked at."""
        form = form_of(expected)
        self._names = form.names
        try:
            self._buffer = map_file(path) if content is None else content
            self._header = read_header(self._buffer, usual=form.usual) if header is None else header
            self._check(form)
        except (InvalidPayload, FileNotFoundError) as error:
            raise damaged(path, error) from None

    def _check(self, form: Form) -> None:
        if len(self._buffer) != self._header.start + self._header.size:
            raise Truncated(f"{len(self._buffer)} bytes of {self._header.start + self._header.size}")
        if self._header.entries is form.usual.entries:
            return
        for name, _, spec in form.asked:
            entry = self._header.entries.get(name)
            if entry is None or entry.shape != spec.shape:
                raise InvalidPayload(f"array {name} is missing or of another shape")
            if entry.code != CODES[spec.dtype] and not (entry.code == "F16" and spec.dtype == "float32"):
                raise InvalidPayload(f"array {name} is of another dtype")

    def adjoins(self, group: str, span: Span) -> bool:
        """Whether the span's arrays follow each other in the file, with one dtype."""
        entries = [self._header.entries[name] for name in self._names[group][span.first : span.last + 1]]
        return all(
            before.end == after.begin and before.code == after.code for before, after in pairwise(entries)
        )

    def flat(self, group: str, span: Span) -> Array:
        """The span's elements as one array: [elements]. The span must adjoin."""
        first = self._header.entries[self._names[group][span.first]]
        last = self._header.entries[self._names[group][span.last]]
        dtype = np.dtype(DTYPES[first.code]).newbyteorder("<")
        count = (last.end - first.begin) // dtype.itemsize
        if count == 0:
            return np.empty(0, dtype)
        return np.frombuffer(self._buffer, dtype, count, self._header.start + first.begin)


class Draft:
    """A message being written to a file nobody knows of yet.

    A context manager; leaving it closes the file, and removes it where an exception passes through. Its space
    is not taken first: a file that lives for a round then need never reach the disk, while one that has its
    space there waits for the disk when it is removed.
    """

    def __init__(self, path: Path, groups: Mapping[str, Manifest]) -> None:
        form = form_of(groups)
        header = form.usual.pack({})
        self.path = path
        self._starts: dict[str, list[int]] = {}
        offset = len(header)
        self._hasher, self._hashed = hasher(form), offset
        for group in sorted(groups):
            self._starts[group] = []
            for spec in groups[group].arrays:
                self._starts[group].append(offset)
                offset += spec.nbytes
        self._end = offset
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            write_at(self._file, 0, header)
        except BaseException:
            self._abandon()
            raise

    def write(self, group: str, span: Span, start: int, block: Array) -> None:
        """Put `block` (contiguous, of the array's dtype) at element `start` of the span."""
        offset = self._starts[group][span.first] + start * block.itemsize
        data = block.view(np.uint8).data
        write_at(self._file, offset, data)
        # Hashed as it passes, as long as it comes in the hash's order.
        in_order = offset == self._hashed
        if in_order:
            self._hasher.update(data)
        self._hashed = offset + len(data) if in_order else -1

    def digest(self) -> Digest | None:
        """The content hash, where all of it was written from the first byte to the last; else None."""
        return self._hasher.hexdigest() if self._hashed == self._end else None

    def __enter__(self) -> Draft:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._abandon()
        else:
            os.close(self._file)

    def _abandon(self) -> None:
        os.close(self._file)
        self.path.unlink(missing_ok=True)


def write_at(file: int, offset: int, data: bytes | memoryview) -> None:
    """All of `data`, wherever the system stops on the way. Raises OSError."""
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, offset)
        view = view[written:]
        offset += written
