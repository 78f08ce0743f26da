"""Find the encapsulated frames of a DICOM file: its tables of offsets, or its items one by one.

Encapsulated pixels are a list of items, of which the first is a table of the positions of the
frames, which may be empty. A frame is one item, or several (fragments).
"""

import struct
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Int64

from parfocal.cost import CostMeter
from parfocal.slide.errors import SlideError
from parfocal.slide.readers.dicom import DicomFile
from parfocal.slide.readers.dicom_header import END_OF_SEQUENCE, ITEM, DicomHeader, PixelData
from parfocal.slide.sources.local import LocalSource
from parfocal.slide.sources.source import ByteSource

ITEM_BYTES = 8  # tag and length
LONG_FILE = 2**32  # beyond, the offsets of a table of four bytes each are not valid
QUICK_FRAMES = 4096  # so many are looked for when a file without a table is opened
COPY = "Copy it again from its source."


@dataclass(frozen=True, eq=False)
class Frames:
    """Where the frames of a file lie.

    Args:
        offsets: position of the first item of each frame.
        byte_counts: length of the items of each frame, with their heads.
    """

    offsets: Int64[np.ndarray, " n"]
    byte_counts: Int64[np.ndarray, " n"]


def check_frames(file: DicomFile) -> None:
    """Check the table of offsets of a file; without one, its frames, unless there are many.

    Raises:
        SlideError: the frames are damaged.
    """
    pixels = file.header.pixels
    if pixels is None or pixels.length is not None:
        return
    with closing(LocalSource(file.path, CostMeter())) as source:
        is_quick = file.header.frames <= QUICK_FRAMES or has_table(file.header, source)
    if is_quick:
        find_frames(file)


def has_table(header: DicomHeader, source: ByteSource) -> bool:
    """Return whether a file has a table of the positions of its encapsulated frames."""
    assert header.pixels is not None
    if header.pixels.offsets is not None:
        return True
    return bool(_item_length(source.read(header.pixels.position, ITEM_BYTES)))


def first_frame(file: DicomFile, length: int) -> bytes:
    """Return up to `length` bytes of the first item of the first frame."""
    assert file.header.pixels is not None
    position = file.header.pixels.position
    with file.path.open("rb") as opened:
        opened.seek(position)
        table = _item_length(opened.read(ITEM_BYTES)) or 0
        opened.seek(position + ITEM_BYTES + table)
        return opened.read(min(length, _item_length(opened.read(ITEM_BYTES)) or 0))


def find_frames(file: DicomFile) -> Frames:
    """Return where the frames of a file with encapsulated pixels lie.

    Raises:
        SlideError: the table of offsets or an item is damaged, or frames are missing.
    """
    return _find_frames(file, file.path.stat().st_size)


def locate_frames(name: str, header: DicomHeader, source: ByteSource) -> Frames:
    """Return where the encapsulated frames of a file lie.

    Args:
        name: name of the file.
        header: its header.
        source: its bytes.

    Raises:
        SlideError: the table of offsets or an item is damaged, or frames are missing.
    """
    assert header.pixels is not None
    try:
        return _Items(source, header.frames).find(header.pixels)
    except (ValueError, struct.error) as error:
        raise SlideError(f"{name}: the frames of this DICOM file {error}. {COPY}") from error


def join_items(encoded: bytes) -> bytes:
    """Return the content of the items of a frame.

    Raises:
        ValueError: they are damaged.
    """
    parts, position = [], 0
    while position < len(encoded):
        length = _item_length(encoded[position : position + ITEM_BYTES])
        start = position + ITEM_BYTES
        if length is None or start + length > len(encoded):
            raise ValueError("the frame does not lie where the table of offsets says")
        parts.append(encoded[start : start + length])
        position = start + length
    return parts[0] if len(parts) == 1 else b"".join(parts)


@lru_cache(maxsize=16)  # a slide is checked, and then read
def _find_frames(file: DicomFile, _size: int) -> Frames:
    with closing(LocalSource(file.path, CostMeter())) as source:
        return locate_frames(file.name, file.header, source)


class _Items:
    """Finds the frames among the items.

    Args:
        source: the bytes of the file.
        frames: number of frames.
    """

    def __init__(self, source: ByteSource, frames: int) -> None:
        self._source, self._size, self._frames = source, source.size, frames

    def find(self, pixels: PixelData) -> Frames:
        """Return where the frames lie."""
        table = self._length_at(pixels.position)
        if table is None:
            raise ValueError("do not begin with a table of offsets")
        first = pixels.position + ITEM_BYTES
        start = first + table
        if pixels.offsets is not None:
            return self._from_table(self._numbers(*pixels.offsets, "<i8"), start)
        if table and self._size < LONG_FILE:
            return self._from_table(self._numbers(first, table, "<u4"), start)
        return self._one_by_one(start)

    def _from_table(self, offsets: Int64[np.ndarray, " n"], start: int) -> Frames:
        if len(offsets) != self._frames:
            raise ValueError(f"are {self._frames}, but its table of offsets has {len(offsets)}")
        if offsets[0] != 0 or (np.diff(offsets) < ITEM_BYTES).any():
            raise ValueError("overlap by its table of offsets")
        positions = start + offsets
        if positions[-1] + ITEM_BYTES > self._size:
            beyond = int((positions + ITEM_BYTES > self._size).sum())
            raise ValueError(f"are truncated: {beyond} of {self._frames} lie beyond its end")
        end = int(positions[-1])
        while (length := self._length_at(end)) is not None:
            end += ITEM_BYTES + length
        self._check_end(end)
        return Frames(positions, np.diff(np.append(positions, end)))

    def _one_by_one(self, start: int) -> Frames:
        """Read the head of each item; each frame is one item."""
        positions = [start]
        while (length := self._length_at(positions[-1])) is not None:
            positions.append(positions[-1] + ITEM_BYTES + length)
            if len(positions) > self._frames + 1:
                raise ValueError(f"are {self._frames} by its header, but it stores more")
        self._check_end(positions[-1])
        if len(positions) != self._frames + 1:
            raise ValueError(
                f"are {self._frames} by its header, but it stores {len(positions) - 1}"
            )
        ends = np.array(positions, dtype=np.int64)
        return Frames(ends[:-1], np.diff(ends))

    def _check_end(self, end: int) -> None:
        """Raise if the items do not end with the mark of their end."""
        mark = self._source.read(end, ITEM_BYTES)
        if len(mark) < ITEM_BYTES:
            raise ValueError("are truncated: the last lies beyond its end")
        if struct.unpack("<HH", mark[:4]) != (END_OF_SEQUENCE >> 16, END_OF_SEQUENCE & 0xFFFF):
            raise ValueError(f"do not follow one another at byte {end}")

    def _length_at(self, position: int) -> int | None:
        """Return the length of an item; None if there is none at this position."""
        length = _item_length(self._source.read(position, ITEM_BYTES))
        if length is not None and position + ITEM_BYTES + length > self._size:
            raise ValueError(f"are truncated: that at byte {position} lies beyond its end")
        return length

    def _numbers(self, position: int, length: int, kind: str) -> Int64[np.ndarray, " n"]:
        if length % np.dtype(kind).itemsize or length > 8 * self._frames:
            raise ValueError(f"are {self._frames}, but its table of offsets has {length} bytes")
        values = np.frombuffer(self._source.read(position, length), dtype=kind)
        if len(values) == 0:
            raise ValueError("have an empty table of offsets")
        return values.astype(np.int64)


def _item_length(head: bytes) -> int | None:
    """Return the length that the head of an item says; None if it is no head of an item."""
    if len(head) < ITEM_BYTES or struct.unpack("<HH", head[:4]) != (ITEM >> 16, ITEM & 0xFFFF):
        return None
    return int.from_bytes(head[4:], "little")
