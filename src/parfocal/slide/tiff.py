"""What a TIFF's directories say: how large the picture is, and how long the file must be.

Nearly every slide format is TIFF inside. Directories and tiles may lie anywhere in the file, so a
copy that broke off is told by what should lie beyond its end.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from os import SEEK_END
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from jaxtyping import UInt

from parfocal.slide.errors import SlideError

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
WIDTH, HEIGHT = 256, 257
# Where the picture's pieces lie and how long each is: strips, then tiles.
PIECES = ((273, 279), (324, 325))
NUMBERS = {3: "u2", 4: "u4", 13: "u4", 16: "u8", 18: "u8"}  # the types such tags have


@dataclass(frozen=True)
class Extent:
    """The first picture's width and height, and the bytes the whole file needs."""

    width: int
    height: int
    needs: int


@dataclass(frozen=True)
class _Entry:
    """A tag's numbers: how many, of which numpy type, and where they begin."""

    kind: str
    count: int
    position: int


_Tags = dict[int, _Entry]


def read_extent(path: Path) -> Extent:
    """Read how large a TIFF's picture is, and how long its file has to be.

    Raises:
        SlideError: it is no TIFF, or its directories break off.
    """
    with path.open("rb") as file:
        if file.read(4) not in MAGIC:
            raise SlideError(f"{path.name}: not a TIFF, as this slide should be; get it again.")
        try:
            pages = list(directories(file))
            width, height = (int(_numbers(file, pages[0][tag])[0]) for tag in (WIDTH, HEIGHT))
            needs = max(_end(file, tags) for tags in pages)
        except (EOFError, KeyError, IndexError):
            raise SlideError(
                f"{path.name}: a TIFF whose list of pictures breaks off, so it is cut short or "
                "damaged; copy it again from its source."
            ) from None
    return Extent(width, height, needs)


def directories(file: BinaryIO) -> Iterator[_Tags]:
    """Give the tags of each directory of a TIFF, classic or BigTIFF.

    Raises:
        EOFError: the chain leads out of the file, or back into itself.
    """
    file.seek(0)
    magic = file.read(4)
    order: Literal["little", "big"] = "little" if magic.startswith(b"II") else "big"
    big = b"+" in magic  # BigTIFF has wider numbers, and more header
    count_bytes, entry_bytes, offset_bytes = (8, 20, 8) if big else (2, 12, 4)
    size, seen = file.seek(0, SEEK_END), set[int]()
    position = 8 if big else 4  # where the next directory's offset stands
    while position + offset_bytes <= size:
        file.seek(position)
        directory = int.from_bytes(file.read(offset_bytes), order)
        if directory == 0:
            return
        if directory in seen or directory + count_bytes > size:
            break
        seen.add(directory)
        file.seek(directory)
        entries = int.from_bytes(file.read(count_bytes), order)
        position = directory + count_bytes + entries * entry_bytes
        if position + offset_bytes > size:
            break
        table = file.read(entries * entry_bytes)
        starts = range(0, len(table), entry_bytes)
        tags = [_tag(table[start : start + entry_bytes], order) for start in starts]
        yield {
            number: _inline(entry, directory + count_bytes + start, offset_bytes)
            for start, (number, entry) in zip(starts, tags, strict=True)
            if entry is not None
        }
    raise EOFError


def _tag(raw: bytes, order: Literal["little", "big"]) -> tuple[int, _Entry | None]:
    """Read an entry; None for one whose values are no whole numbers."""
    number, kind = (int.from_bytes(raw[at : at + 2], order) for at in (0, 2))
    half = (len(raw) - 4) // 2  # a count and an offset, 4 bytes each, or 8
    count, offset = (int.from_bytes(raw[at : at + half], order) for at in (4, 4 + half))
    if kind not in NUMBERS:
        return number, None
    return number, _Entry(f"{'<' if order == 'little' else '>'}{NUMBERS[kind]}", count, offset)


def _inline(entry: _Entry, start: int, offset_bytes: int) -> _Entry:
    """Point to the entry itself where its values are short enough to stand in it."""
    if entry.count * np.dtype(entry.kind).itemsize > offset_bytes:
        return entry
    return _Entry(entry.kind, entry.count, start + 4 + offset_bytes)


def _numbers(file: BinaryIO, entry: _Entry) -> UInt[np.ndarray, " n"]:
    length = entry.count * np.dtype(entry.kind).itemsize
    if entry.position + length > file.seek(0, SEEK_END):
        raise EOFError
    file.seek(entry.position)
    return np.frombuffer(file.read(length), entry.kind)


def _end(file: BinaryIO, tags: _Tags) -> int:
    """Give where the last piece of a directory's picture ends."""
    ends = [0]
    for offsets, lengths in PIECES:
        if offsets in tags and lengths in tags:
            starts, sizes = _numbers(file, tags[offsets]), _numbers(file, tags[lengths])
            ends.append(int((starts.astype(np.uint64) + sizes.astype(np.uint64)).max()))
    return max(ends)
