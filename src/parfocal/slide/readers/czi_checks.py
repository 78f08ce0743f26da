"""Check the segments of a Zeiss CZI file before OpenSlide opens it.

The header gives the positions of the directory of tiles and of the metadata. An entry of the
directory describes a tile and gives its position.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

SEGMENT = struct.Struct("<16sqq")  # name, bytes reserved, bytes used
HEADER = struct.Struct("<4i16s16siqqiq")
DIRECTORY = struct.Struct("<i124x")
METADATA = struct.Struct("<i252x")
ENTRY = struct.Struct("<2siqiibxxxxxi")  # schema, pixels, position, part, compression, pyramid, n
DIMENSION = struct.Struct("<4siifi")  # name, start, size, coordinate, size stored
MAX_TILES = 2**22
MAX_DIMENSIONS = 40
MAX_TILE_PX = 2**26
MAX_SIDE_PX = 2**21
MAX_METADATA_BYTES = 2**28


@dataclass(frozen=True)
class CziTile:
    """Where a tile lies.

    Args:
        position: position of its segment in the file.
        start: left and top edge, in level-0 pixels of the microscope's stage.
        size: width and height in level-0 pixels.
        stored: width and height in stored pixels.
    """

    position: int
    start: tuple[int, int]
    size: tuple[int, int]
    stored: tuple[int, int]


def check_czi(path: Path) -> list[Path]:
    """Check the segments of a CZI file.

    Returns:
        The file.

    Raises:
        ValueError: a segment is missing or truncated, or a tile is impossible.
        OSError: the file cannot be read.
    """
    length = path.stat().st_size
    try:
        with path.open("rb") as file:
            _read_segment(file, 0, b"ZISRAWFILE", length)
            header = HEADER.unpack(file.read(HEADER.size))
            directory_at, metadata_at = header[7], header[8]
            _check_metadata(file, metadata_at, length)
            used = _read_segment(file, directory_at, b"ZISRAWDIRECTORY", length)
            (count,) = DIRECTORY.unpack(file.read(DIRECTORY.size))
            if not 1 <= count <= MAX_TILES or count * ENTRY.size > used:
                raise ValueError(f"its directory of {used} bytes lists {count} tiles")
            tiles = list(_read_tiles(file.read(used - DIRECTORY.size), count))
    except struct.error:
        raise ValueError("it is truncated within its directory") from None
    _check_tiles(tiles, length)
    return [path]


def _read_segment(file: BinaryIO, position: int, name: bytes, length: int) -> int:
    """Read the head of a segment, and return the number of bytes that it uses."""
    text = name.decode()
    if not 0 <= position <= length - SEGMENT.size:
        raise ValueError(f"its {text} would lie at byte {position} of {length}")
    file.seek(position)
    found, _, used = SEGMENT.unpack(file.read(SEGMENT.size))
    if found.rstrip(b"\0") != name:
        raise ValueError(f"its {text} is not at byte {position}, where it should be")
    if not 0 <= used <= length - position - SEGMENT.size:
        raise ValueError(f"its {text} has {used} bytes, which is more than the file has there")
    return int(used)


def _check_metadata(file: BinaryIO, position: int, length: int) -> None:
    used = _read_segment(file, position, b"ZISRAWMETADATA", length)
    (size,) = METADATA.unpack(file.read(METADATA.size))
    if not 0 < size <= min(used, MAX_METADATA_BYTES):
        raise ValueError(f"its metadata have {size} bytes, in a segment of {used}")


def _read_tiles(content: bytes, count: int) -> Iterator[CziTile]:
    position = 0
    for number in range(count):
        schema, _, place, _, _, _, dimensions = ENTRY.unpack_from(content, position)
        if schema != b"DV" or not 1 <= dimensions <= MAX_DIMENSIONS:
            raise ValueError(f"entry {number} of its directory is damaged")
        position += ENTRY.size
        found: dict[bytes, tuple[int, int, int]] = {}
        for _ in range(dimensions):
            name, start, size, _, stored = DIMENSION.unpack_from(content, position)
            found[name.rstrip(b"\0")] = start, size, stored
            position += DIMENSION.size
        if not found.keys() >= {b"X", b"Y"}:
            raise ValueError(f"entry {number} of its directory has no position")
        (left, width, stored_width), (top, height, stored_height) = found[b"X"], found[b"Y"]
        yield CziTile(place, (left, top), (width, height), (stored_width, stored_height))


def _check_tiles(tiles: list[CziTile], length: int) -> None:
    for number, tile in enumerate(tiles):
        width, height = tile.stored
        if not (0 < width <= tile.size[0] and 0 < height <= tile.size[1]):
            raise ValueError(f"tile {number} has {width} x {height} of {tile.size} px")
        if width * height > MAX_TILE_PX:
            raise ValueError(f"tile {number} has {width} x {height} px, which is too large")
    beyond = sum(not 0 < tile.position <= length - SEGMENT.size for tile in tiles)
    if beyond:
        raise ValueError(f"it is truncated: {beyond} of its {len(tiles)} tiles lie beyond its end")
    for axis in (0, 1):
        low = min(tile.start[axis] for tile in tiles)
        high = max(tile.start[axis] + tile.size[axis] for tile in tiles)
        if high - low > MAX_SIDE_PX:
            raise ValueError(f"its tiles cover {high - low} px, which no slide has")
