"""Read the header of a DICOM file: what it is part of, its size, and where its pixels lie.

Elements are read one after the other; long values and sequences are skipped, except for those that
hold the size of a pixel and the objective.
"""

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from parfocal.slide.errors import SlideError

PREAMBLE_BYTES = 128
SIGNATURE = b"DICM"
WHOLE_SLIDE_CLASS = "1.2.840.10008.5.1.4.1.1.77.1.6"
IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
LONG_VALUES = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
UNDEFINED = 0xFFFFFFFF
SYNTAX, PIXEL_DATA, PER_FRAME_GROUPS = 0x00020010, 0x7FE00010, 0x52009230
OFFSET_TABLE, LENGTH_TABLE = 0x7FE00001, 0x7FE00002
# Sequences whose first item is read: shared descriptions of frames, pixel measures, optical paths.
READ_SEQUENCES = (0x52009229, 0x00289110, 0x00480105)
ITEM, END_OF_ITEM, END_OF_SEQUENCE = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
MAX_ELEMENTS = 10_000  # of a header without the descriptions of frames
MAX_DEPTH = 32
MAX_VALUE_BYTES = 1024
PAIR = struct.Struct("<HH")
CHUNK_BYTES = 2**14  # read at once; most headers are shorter


@dataclass(frozen=True)
class PixelData:
    """Where the pixels of a DICOM file lie.

    Args:
        position: position in the file of the value of PixelData.
        length: its length in bytes; None if the pixels are encapsulated.
        offsets: position and length of the ExtendedOffsetTable; None if there is none.
        lengths: position and length of the ExtendedOffsetTableLengths; None if there is none.
    """

    position: int
    length: int | None
    offsets: tuple[int, int] | None
    lengths: tuple[int, int] | None


@dataclass(frozen=True)
class DicomHeader:
    """What the header of a DICOM file says.

    Args:
        class_uid: kind of the file.
        meta_class_uid: the kind again, as in the first elements of the file; empty if missing.
        series_uid: the series that it belongs to.
        syntax_uid: how its pixels are encoded.
        image_type: such as ORIGINAL, PRIMARY, VOLUME, NONE.
        tile_size: width and height of a frame in pixels.
        size: width and height of the image in pixels.
        frames: number of frames.
        photometric: name of the color space.
        samples: number of samples per pixel.
        bits: number of bits per sample: allocated, stored.
        planes: number of focal planes; 1 if not recorded.
        paths: number of optical paths; 1 if not recorded.
        sides_um: width and height of a pixel in microns; None if not recorded.
        volume_um: width and height of the imaged area in microns; None if not recorded.
        objective_power: magnification of the objective; None if not recorded.
        is_tiled_full: whether every tile is stored, in order.
        is_part: whether the file holds a part of an image (a concatenation).
        pixels: where the pixels lie; None if they were not found.
    """

    class_uid: str
    meta_class_uid: str
    series_uid: str
    syntax_uid: str
    image_type: tuple[str, ...]
    tile_size: tuple[int, int]
    size: tuple[int, int]
    frames: int
    photometric: str
    samples: int
    bits: tuple[int, int]
    planes: int
    paths: int
    sides_um: tuple[float, float] | None
    volume_um: tuple[float, float] | None
    objective_power: str | None
    is_tiled_full: bool
    is_part: bool
    pixels: PixelData | None

    @property
    def is_level(self) -> bool:
        """Whether the file holds a level of a slide, not its label or an overview."""
        return self.class_uid == WHOLE_SLIDE_CLASS and "VOLUME" in self.image_type[2:3]

    @property
    def tile_counts(self) -> tuple[int, int]:
        """Number of columns and rows of tiles."""
        (width, height), (tile_width, tile_height) = self.size, self.tile_size
        return -(-width // tile_width), -(-height // tile_height)


def is_dicom(path: Path) -> bool:
    """Return whether a file has the signature of DICOM."""
    with path.open("rb") as file:
        file.seek(PREAMBLE_BYTES)
        return file.read(4) == SIGNATURE


def read_header(path: Path) -> DicomHeader:
    """Read the header of a DICOM file.

    Raises:
        SlideError: the header is damaged.
    """
    stat = path.stat()
    return _read_header(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=4096)
def _read_header(path: Path, size: int, _changed: int) -> DicomHeader:
    with path.open("rb", buffering=0) as file:
        return parse_header(path.name, file, size)


def parse_header(name: str, file: BinaryIO | io.RawIOBase, size: int) -> DicomHeader:
    """Read the header of an open DICOM file.

    Args:
        name: name of the file.
        file: the file.
        size: its length in bytes.

    Raises:
        SlideError: the header is damaged.
    """
    try:
        elements = _Elements(file, size)
        values: dict[int, bytes] = {}
        for tag, value in elements.read():
            values.setdefault(tag, value)  # of several optical paths, the first
        return _parse(values, elements.pixels)
    except (ArithmeticError, LookupError, ValueError, struct.error) as error:
        raise SlideError(
            f"{name}: the header of this DICOM file is damaged ({error}). Copy it again from "
            "its source."
        ) from error


def _parse(values: dict[int, bytes], pixels: PixelData | None) -> DicomHeader:
    def text(tag: int) -> str:
        return values.get(tag, b"").decode("ascii", "replace").strip("\0 ")

    def number(tag: int, default: int = 0) -> int:
        return int.from_bytes(values[tag][:4], "little") if values.get(tag) else default

    tile_size = number(0x00280011), number(0x00280010)
    spacing = _numbers(text(0x00280030))  # rows, columns; millimeters
    volume = tuple(_single(values.get(tag, b"")) for tag in (0x00480001, 0x00480002))
    return DicomHeader(
        class_uid=text(0x00080016),
        meta_class_uid=text(0x00020002),
        series_uid=text(0x0020000E),
        syntax_uid=text(SYNTAX),
        image_type=tuple(part.strip() for part in text(0x00080008).split("\\")),
        tile_size=tile_size,
        size=(number(0x00480006) or tile_size[0], number(0x00480007) or tile_size[1]),
        frames=int(text(0x00280008) or 1),
        photometric=text(0x00280004),
        samples=number(0x00280002),
        bits=(number(0x00280100), number(0x00280101)),
        planes=number(0x00480303, 1),
        paths=number(0x00480302, 1),
        sides_um=(1e3 * spacing[1], 1e3 * spacing[0]) if len(spacing) == 2 else None,
        volume_um=(1e3 * volume[0], 1e3 * volume[1]) if all(volume) else None,
        objective_power=next((f"{power:g}" for power in _numbers(text(0x00480112))), None),
        is_tiled_full=text(0x00209311) == "TILED_FULL",
        is_part=bool(text(0x00209161)),
        pixels=pixels,
    )


def _numbers(text: str) -> list[float]:
    """Return the numbers of a value of decimal strings; none if one of them is damaged."""
    try:
        return [float(part) for part in text.split("\\")]
    except ValueError:
        return []


def _single(value: bytes) -> float:
    """Return a number of single precision; 0 if it is missing or not finite."""
    number = float(struct.unpack("<f", value)[0]) if len(value) == 4 else 0.0
    return number if 0 < number < 1e6 else 0.0


class _Elements:
    """Reads the elements of a header.

    Args:
        file: the file.
        size: its length in bytes.

    Attributes:
        pixels: where the pixels lie; None until they are found.
    """

    def __init__(self, file: BinaryIO | io.RawIOBase, size: int) -> None:
        self._file, self._size = file, size
        self._position = PREAMBLE_BYTES + len(SIGNATURE)
        self._chunk, self._chunk_start = b"", 0
        self._syntax, self._is_explicit = EXPLICIT, True
        self._tables: dict[int, tuple[int, int]] = {}
        self.pixels: PixelData | None = None

    def read(self) -> Iterator[tuple[int, bytes]]:
        """Return tag and value of each short element up to the pixels."""
        for _ in range(MAX_ELEMENTS):
            start = self._take(8)
            if len(start) < 8:
                return
            tag = _tag(start)
            self._is_explicit = tag >> 16 == 2 or self._syntax != IMPLICIT
            length = self._value_length(start)
            if tag == PIXEL_DATA:
                self._note_pixels(length)
                return
            if tag == PER_FRAME_GROUPS and length == UNDEFINED:
                return  # its end can only be found by reading the descriptions of all frames
            if tag in READ_SEQUENCES:
                yield from self._first_item(length, depth=0)
                continue
            value = self._value(tag, length, depth=0)
            if tag == SYNTAX and value is not None:
                self._syntax = value.decode("ascii", "replace").strip("\0 ")
            if value is not None:
                yield tag, value
        raise ValueError("it does not end")

    def _take(self, length: int) -> bytes:
        """Return the next bytes, fewer at the end of the file; the file is read in chunks."""
        start = self._position - self._chunk_start
        if not 0 <= start <= start + length <= len(self._chunk):
            self._file.seek(self._position)
            self._chunk, self._chunk_start = (
                self._file.read(max(length, CHUNK_BYTES)) or b"",
                self._position,
            )
            start = 0
        taken = self._chunk[start : start + length]
        self._position += len(taken)
        return taken

    def _note_pixels(self, length: int) -> None:
        tables = self._tables
        if length != UNDEFINED:
            self._check_inside(PIXEL_DATA, length)
        self.pixels = PixelData(
            self._position,
            None if length == UNDEFINED else length,
            tables.get(OFFSET_TABLE),
            tables.get(LENGTH_TABLE),
        )

    def _value(self, tag: int, length: int, *, depth: int) -> bytes | None:
        """Read a short value; skip a long one or a sequence, and return None."""
        if length == UNDEFINED:
            self._skip_items(depth=depth)
            return None
        self._check_inside(tag, length)
        if tag in (OFFSET_TABLE, LENGTH_TABLE):
            self._tables[tag] = self._position, length
        if length > MAX_VALUE_BYTES:
            self._position += length
            return None
        return self._take(length)

    def _first_item(self, length: int, *, depth: int) -> Iterator[tuple[int, bytes]]:
        """Return the short elements of the items of a sequence, and skip its end."""
        if depth > MAX_DEPTH:
            raise ValueError("its sequences are nested too deeply")
        end = self._end(length)
        for _ in range(MAX_ELEMENTS):
            if self._position >= end:
                return
            start = self._take(8)
            if len(start) < 8:
                raise ValueError("a sequence does not end")
            tag, item_length = _tag(start), int.from_bytes(start[4:], "little")
            if tag == END_OF_SEQUENCE:
                return
            if tag != ITEM:
                raise ValueError(f"element {tag:08X} is not in an item of its sequence")
            yield from self._item(item_length, depth=depth)
        raise ValueError("a sequence does not end")

    def _item(self, length: int, *, depth: int) -> Iterator[tuple[int, bytes]]:
        end = self._end(length)
        for _ in range(MAX_ELEMENTS):
            if self._position >= end:
                return
            start = self._take(8)
            if len(start) < 8:
                raise ValueError("a sequence does not end")
            tag = _tag(start)
            if tag == END_OF_ITEM:
                return
            value_length = self._value_length(start)
            if tag in READ_SEQUENCES:
                yield from self._first_item(value_length, depth=depth + 1)
                continue
            value = self._value(tag, value_length, depth=depth + 1)
            if value is not None:
                yield tag, value
        raise ValueError("a sequence does not end")

    def _skip_items(self, *, depth: int) -> None:
        """Skip the items of a sequence or the elements of an item, up to the mark of its end."""
        if depth > MAX_DEPTH:
            raise ValueError("its sequences are nested too deeply")
        for _ in range(MAX_ELEMENTS):
            start = self._take(8)
            if len(start) < 8:
                raise ValueError("a sequence does not end")
            length = self._value_length(start)
            if _tag(start) in (END_OF_SEQUENCE, END_OF_ITEM):
                return
            if length == UNDEFINED:
                self._skip_items(depth=depth + 1)
            elif self._position + length > self._size:
                raise ValueError("a sequence is longer than the file")
            else:
                self._position += length
        raise ValueError("a sequence does not end")

    def _end(self, length: int) -> int:
        """Return where a sequence or an item ends at the latest."""
        if length == UNDEFINED:
            return self._size
        if self._position + length > self._size:
            raise ValueError("a sequence is longer than the file")
        return self._position + length

    def _check_inside(self, tag: int, length: int) -> None:
        if self._position + length > self._size:
            raise ValueError(f"element {tag:08X} is longer than the file")

    def _long_length(self) -> int:
        content = self._take(4)
        if len(content) < 4:
            raise ValueError("an element does not end")
        return int.from_bytes(content, "little")

    def _value_length(self, start: bytes) -> int:
        """Return the length of the value of an element whose first eight bytes have been read."""
        if not self._is_explicit or start[:2] == b"\xfe\xff":  # items have no type
            return int.from_bytes(start[4:8], "little")
        if start[4:6] in LONG_VALUES:
            return self._long_length()
        return int.from_bytes(start[6:8], "little")


def _tag(start: bytes) -> int:
    group, element = PAIR.unpack_from(start)
    return int(group << 16 | element)
