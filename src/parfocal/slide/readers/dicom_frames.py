"""Find the encapsulated frames of a DICOM file: its tables of offsets, or its items one by one.

Encapsulated pixels are a list of items, of which the first is a table of the positions of the
frames, which may be empty. A frame is one item, or several (fragments).
"""

import struct
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from parfocal.files import PositionedFile
from parfocal.slide.errors import SlideError
from parfocal.slide.readers.dicom import DicomFile
from parfocal.slide.readers.dicom_header import END_OF_SEQUENCE, ITEM, PixelData

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
    if file.header.frames <= QUICK_FRAMES or _has_table(file.path, pixels):
        find_frames(file)


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
def _find_frames(file: DicomFile, size: int) -> Frames:
    assert file.header.pixels is not None
    opened = PositionedFile(file.path)
    try:
        return _Items(opened, size, file.header.frames).find(file.header.pixels)
    except (ValueError, struct.error) as error:
        raise SlideError(
            f"{file.path.name}: the frames of this DICOM file {error}. {COPY}"
        ) from error
    finally:
        opened.close()


class _Items:
    """Finds the frames among the items.

    Args:
        file: the file.
        size: its length in bytes.
        frames: number of frames.
    """

    def __init__(self, file: PositionedFile, size: int, frames: int) -> None:
        self._file, self._size, self._frames = file, size, frames

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
        mark = self._file.read(ITEM_BYTES, end)
        if len(mark) < ITEM_BYTES:
            raise ValueError("are truncated: the last lies beyond its end")
        if struct.unpack("<HH", mark[:4]) != (END_OF_SEQUENCE >> 16, END_OF_SEQUENCE & 0xFFFF):
            raise ValueError(f"do not follow one another at byte {end}")

    def _length_at(self, position: int) -> int | None:
        """Return the length of an item; None if there is none at this position."""
        length = _item_length(self._file.read(ITEM_BYTES, position))
        if length is not None and position + ITEM_BYTES + length > self._size:
            raise ValueError(f"are truncated: that at byte {position} lies beyond its end")
        return length

    def _numbers(self, position: int, length: int, kind: str) -> Int64[np.ndarray, " n"]:
        if length % np.dtype(kind).itemsize or length > 8 * self._frames:
            raise ValueError(f"are {self._frames}, but its table of offsets has {length} bytes")
        values = np.frombuffer(self._file.read(length, position), dtype=kind)
        if len(values) == 0:
            raise ValueError("have an empty table of offsets")
        return values.astype(np.int64)


def _has_table(path: Path, pixels: PixelData) -> bool:
    """Return whether a file has a table of the positions of its frames."""
    if pixels.offsets is not None:
        return True
    with path.open("rb") as file:
        file.seek(pixels.position)
        return bool(_item_length(file.read(ITEM_BYTES)))


def _item_length(head: bytes) -> int | None:
    """Return the length that the head of an item says; None if it is no head of an item."""
    if len(head) < ITEM_BYTES or struct.unpack("<HH", head[:4]) != (ITEM >> 16, ITEM & 0xFFFF):
        return None
    return int.from_bytes(head[4:], "little")
