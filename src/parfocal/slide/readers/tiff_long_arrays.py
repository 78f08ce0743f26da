"""The long arrays of a TIFF: positions and lengths of tiles, which need not be read to open it.

A slide of 100,000 x 100,000 px has 2.5 MB of them, most of a level that is never read.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from struct import Struct
from typing import Literal

import numpy as np
from jaxtyping import Int64

from parfocal.slide.sources.source import ByteSource, SourceFile

ARRAY_TAGS = (273, 279, 324, 325)  # StripOffsets, StripByteCounts, TileOffsets, TileByteCounts
OFFSET_TAGS = (273, 324)
SUB_DIRECTORIES = 330
TYPE_BYTES = {3: 2, 4: 4, 13: 4, 16: 8, 18: 8}  # SHORT, LONG, IFD, LONG8, IFD8
LONG_BYTES = 2**17
MAX_DIRECTORIES = 1000
MAX_ENTRIES = 4096


@dataclass(frozen=True, eq=False)
class LongArray:
    """An array of whole numbers that is read when it is needed.

    Args:
        source: the bytes of the file.
        position: where it starts.
        count: number of values.
        dtype: type of a value, with its byte order.
    """

    source: ByteSource
    position: int
    count: int
    dtype: np.dtype[np.unsignedinteger]

    @property
    def length(self) -> int:
        """Number of bytes."""
        return self.count * self.dtype.itemsize

    def read(self) -> Int64[np.ndarray, " n"]:
        """Read the values."""
        content = self.source.read(self.position, self.length)
        return np.frombuffer(content, self.dtype).astype(np.int64)


Arrays = dict[int, LongArray]  # by tag


def find_long_arrays(source: ByteSource) -> dict[int, Arrays]:
    """Find the long arrays of every directory of a TIFF, by the position of the directory.

    Only entries are read, and nothing is checked; whoever reads the directories does that.
    """
    layout = _Layout(source)
    found: dict[int, Arrays] = {}
    waiting, seen = [layout.first], set[int]()
    while waiting and len(seen) < MAX_DIRECTORIES:
        position = waiting.pop()
        if position == 0 or position in seen or position >= source.size:
            continue
        seen.add(position)
        entries, following = layout.directory(position)
        waiting.append(following)
        arrays: Arrays = {}
        for tag, kind, count, value in entries:
            item = TYPE_BYTES.get(kind, 0)
            if tag == SUB_DIRECTORIES and 0 < count <= MAX_DIRECTORIES and item:
                waiting += layout.numbers(value, count, item)
            if tag in ARRAY_TAGS and count * item > LONG_BYTES:
                start = int.from_bytes(value, layout.order)
                dtype = np.dtype(f"{layout.mark}u{item}")
                arrays[tag] = LongArray(source, start, count, dtype)
        if arrays:
            found[position] = arrays
    return found


class FileWithoutArrays(SourceFile):
    """A file in which the long arrays read as zeros, so that they are not fetched.

    Args:
        source: the bytes of the file.
        arrays: the arrays.
    """

    def __init__(self, source: ByteSource, arrays: Iterable[LongArray]) -> None:
        super().__init__(source)
        self._holes = sorted((each.position, each.position + each.length) for each in arrays)

    def fetch(self, offset: int, length: int) -> bytes:
        """Return bytes from a position, with zeros instead of the arrays."""
        parts, position, end = [], offset, offset + length
        for start, stop in self._holes:
            if stop <= position or start >= end:
                continue
            if start > position:
                parts.append(super().fetch(position, start - position))
            parts.append(bytes(min(stop, end) - max(start, position)))
            position = min(stop, end)
        if position < end:
            parts.append(super().fetch(position, end - position))
        return b"".join(parts)


class _Layout:
    """The forms of numbers in a TIFF, which depend on its first bytes."""

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        head = source.read(0, 16)
        self.mark = "<" if head.startswith(b"II") else ">"
        is_big = head[2:4] in (b"+\0", b"\0+")
        wide = "Q" if is_big else "I"
        self._offset = Struct(f"{self.mark}{wide}")
        self._number = Struct(f"{self.mark}{'Q' if is_big else 'H'}")
        self._entry = Struct(f"{self.mark}HH{wide}{8 if is_big else 4}s")
        self.first: int = self._offset.unpack_from(head, 8 if is_big else 4)[0]

    @property
    def order(self) -> Literal["little", "big"]:
        return "little" if self.mark == "<" else "big"

    def directory(self, position: int) -> tuple[list[tuple[int, int, int, bytes]], int]:
        """Return the entries of a directory, and the position of the next; none if it is cut."""
        head = self._source.read(position, self._number.size)
        if len(head) < self._number.size:
            return [], 0
        (count,) = self._number.unpack(head)
        length = min(count, MAX_ENTRIES) * self._entry.size
        content = self._source.read(position + len(head), length + self._offset.size)
        if len(content) < length + self._offset.size:
            return [], 0
        entries = list(self._entry.iter_unpack(content[:length]))
        return entries, self._offset.unpack_from(content, length)[0]

    def numbers(self, value: bytes, count: int, item: int) -> Iterator[int]:
        """Return the values of an entry, which are in it or where it points to."""
        if count * item > len(value):
            value = self._source.read(int.from_bytes(value, self.order), count * item)
        for start in range(0, count * item, item):
            yield int.from_bytes(value[start : start + item], self.order)
