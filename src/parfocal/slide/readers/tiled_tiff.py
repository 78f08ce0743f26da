"""Read tiled TIFF files directly: plain pyramids, Aperio SVS and OME-TIFF.

OpenSlide composes every tile onto a canvas, which takes longer than decoding it. This reader
locates a tile in the file, decodes it, and copies it at most once. Its pixels are identical to
OpenSlide's.

The levels and metadata of plain and Aperio files are those that OpenSlide reports. OpenSlide sees
at most one level of an OME-TIFF, so the levels and metadata of those come from the file's
directories and XML. All other files are left to OpenSlide: other vendors, whose tiles may overlap
or leave gaps, and files with a level that is not 8-bit RGB in tiles that are all stored.

A damaged tile raises an error. Any warning of libjpeg counts as damage, which is stricter than
OpenSlide. Damage after which the data is still a valid JPEG image is not detected, and neither is
damage inside a JPEG 2000 tile; OpenSlide does not detect them either.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import simplejpeg
from jaxtyping import Int64, UInt8

from parfocal.cost import CostMeter
from parfocal.files import PositionedFile
from parfocal.slide.errors import DamagedRegionError, SlideError, one_line
from parfocal.slide.readers.openslide import CACHE_BYTES
from parfocal.slide.readers.scan import Level, Metadata, Scan, compute_levels, mean_mpp
from parfocal.slide.readers.tiff_directories import TiffDirectory

Pixels = UInt8[np.ndarray, "h w 3"]
Decoder = Callable[[bytes, int], Pixels]

VENDORS = ("generic-tiff", "aperio")  # as OpenSlide calls them
OME_VENDOR = "ome-tiff"
OME_MPP_SOURCE = "PhysicalSizeX and PhysicalSizeY of the OME-XML"
# Microns per unit. Two characters look like a mu: the micro sign and the Greek letter.
MICRONS = {"µm": 1.0, "μm": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6}
# Marker of a JPEG image; the byte that follows is 0 for RGB and 1 for YCbCr.
ADOBE_MARKER = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"


@dataclass(frozen=True, eq=False)
class TiledLevel:
    """The tiles of one level.

    Args:
        size: width and height of the level in pixels.
        tile_size: width and height of a tile in pixels.
        offsets: position in the file of each tile, row by row.
        byte_counts: length in bytes of each tile.
        decode: decodes a tile from its bytes and its index.
    """

    size: tuple[int, int]
    tile_size: tuple[int, int]
    offsets: Int64[np.ndarray, " n"]
    byte_counts: Int64[np.ndarray, " n"]
    decode: Decoder

    @classmethod
    def from_directory(cls, directory: TiffDirectory) -> "TiledLevel":
        """Build a level from a directory whose tiles can be decoded."""
        return cls(
            size=directory.size,
            tile_size=directory.tile_size,
            offsets=directory.offsets,
            byte_counts=directory.byte_counts,
            decode=_jpeg_decoder(directory) if directory.is_jpeg else _tifffile_decoder(directory),
        )

    @property
    def columns(self) -> int:
        """Number of tiles in a row."""
        return -(-self.size[0] // self.tile_size[0])

    def overlapping(self, x: int, y: int, width: int, height: int) -> Iterator[int]:
        """Return the indices of the tiles that overlap a region, in pixels of the level."""
        tile_width, tile_height = self.tile_size
        for row in range(y // tile_height, -(-(y + height) // tile_height)):
            for column in range(x // tile_width, -(-(x + width) // tile_width)):
                yield row * self.columns + column

    def corner(self, index: int) -> tuple[int, int]:
        """Return the (x, y) of a tile's top-left corner, in pixels of the level."""
        row, column = divmod(index, self.columns)
        return column * self.tile_size[0], row * self.tile_size[1]


class TiledTiffScan:
    """A tiled TIFF file; `open_tiled_tiff` opens one.

    A tile that is read in part is cached, because its neighbors will need the rest; a tile that is
    read whole is not.

    Args:
        path: the file.
        tiled_levels: the tiles of each level, sharpest first.
        metadata: metadata recorded in the file.
        cost_meter: counts the bytes of the tiles that are read.
    """

    def __init__(
        self,
        path: Path,
        tiled_levels: Sequence[TiledLevel],
        metadata: Metadata,
        cost_meter: CostMeter,
    ) -> None:
        self.levels: tuple[Level, ...] = compute_levels([level.size for level in tiled_levels])
        self.metadata = metadata
        self._path, self._tiled_levels, self._cost_meter = path, tuple(tiled_levels), cost_meter
        self._file = PositionedFile(path)
        largest = max(3 * level.tile_size[0] * level.tile_size[1] for level in tiled_levels)
        # lru_cache holds no lock that a fork could copy in its locked state.
        self._read_cached = lru_cache(maxsize=max(1, CACHE_BYTES // largest))(self._read_tile)

    def read_level(
        self, level: int, x: int, y: int, width: int, height: int
    ) -> UInt8[np.ndarray, "height width 3"]:
        """Read stored pixels; see `Scan.read_level`."""
        tiles = self._tiled_levels[level]
        tile_width, tile_height = tiles.tile_size
        if (x % tile_width, y % tile_height, width, height) == (0, 0, tile_width, tile_height):
            return self._read_tile(level, next(tiles.overlapping(x, y, width, height)))
        pixels = np.empty((height, width, 3), dtype=np.uint8)
        for index in tiles.overlapping(x, y, width, height):
            left, top = tiles.corner(index)
            to_columns, columns = _intersect(x, width, left, tile_width)
            to_rows, rows = _intersect(y, height, top, tile_height)
            is_whole = (columns, rows) == (slice(0, tile_width), slice(0, tile_height))
            tile = self._read_tile(level, index) if is_whole else self._read_cached(level, index)
            pixels[to_rows, to_columns] = tile[rows, columns]
        return pixels

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        self._read_cached.cache_clear()

    def _read_tile(self, level: int, index: int) -> UInt8[np.ndarray, "h w 3"]:
        tiles = self._tiled_levels[level]
        width, height = tiles.tile_size
        length = int(tiles.byte_counts[index])
        try:
            encoded = self._file.read(length, int(tiles.offsets[index]))
            self._cost_meter.add_bytes(len(encoded))
            if len(encoded) < length:
                raise ValueError(f"the tile ends {length - len(encoded)} bytes beyond the file")
            pixels = tiles.decode(encoded, index)
            if pixels.shape != (height, width, 3):
                raise ValueError(f"the tile decodes to {pixels.shape[1]} x {pixels.shape[0]} px")
        except (OSError, RuntimeError, ValueError) as error:  # decoders raise the last two
            downsample = self.levels[level].downsample
            x, y = (round(corner * downsample) for corner in tiles.corner(index))
            raise DamagedRegionError(
                self._path, (x, y), (width, height), level, one_line(error)
            ) from error
        return pixels


def open_tiled_tiff(
    path: Path,
    directories: Sequence[TiffDirectory],
    openslide: Scan | None,
    cost_meter: CostMeter,
) -> TiledTiffScan | None:
    """Open a tiled TIFF file that can be read directly; return None for any other.

    Args:
        path: the file.
        directories: all its directories.
        openslide: the same file, opened by OpenSlide; None if OpenSlide does not support it.
        cost_meter: counts the bytes of the tiles that are read; directories are not counted.

    Raises:
        SlideError: tiles lie beyond the end of the file.
    """
    try:
        if directories[0].page.is_ome:
            metadata = ome_metadata(directories[0].page.description)
            levels: Sequence[TiffDirectory] = (directories[0], *directories[0].reduced)
        else:
            metadata = None if openslide is None else openslide.metadata
            levels = () if openslide is None else _matching_directories(directories, openslide)
        if metadata is None or not levels or not all(d.has_readable_tiles() for d in levels):
            return None
        tiled_levels = [TiledLevel.from_directory(directory) for directory in levels]
    except (ArithmeticError, LookupError, TypeError, ValueError):
        return None  # damaged tags raise anything; OpenSlide or Pillow reports the damage
    _check_length(path, tiled_levels)
    return TiledTiffScan(path, tiled_levels, metadata, cost_meter)


def ome_metadata(description: str) -> Metadata | None:
    """Read the metadata of an OME-TIFF from the XML of its first directory.

    Returns:
        None if the XML is damaged, or describes several depths or times. Those are stored in
        directories of their own, and which one to read is unknown.
    """
    try:
        pixels = ElementTree.fromstring(description).find(".//{*}Pixels")
    except ElementTree.ParseError:
        return None
    if pixels is None or any(pixels.get(axis, "1") != "1" for axis in ("SizeZ", "SizeT")):
        return None
    mpp, source = mean_mpp(*(_pixel_side(pixels, axis) for axis in "XY"), source=OME_MPP_SOURCE)
    return Metadata(OME_VENDOR, mpp, source)


def _pixel_side(pixels: ElementTree.Element, axis: str) -> float | None:
    """Return the side of a pixel in microns; None if it is missing or not a length."""
    length = pixels.get(f"PhysicalSize{axis}")
    unit = MICRONS.get(pixels.get(f"PhysicalSize{axis}Unit", "µm"))
    try:
        return None if length is None or unit is None else float(length) * unit
    except ValueError:
        return None


def _matching_directories(
    directories: Sequence[TiffDirectory], openslide: Scan
) -> list[TiffDirectory]:
    """Return the directory of each level that OpenSlide reports; none if a match is ambiguous."""
    matching = []
    for level in openslide.levels:
        same_size = [d for d in directories if d.size == (level.width, level.height)]
        # If a tile's own header declares YCbCr and the tags RGB, OpenSlide follows the tags.
        if len(same_size) != 1 or (same_size[0].is_jfif and same_size[0].is_rgb):
            return []
        matching += same_size
    return matching


def _check_length(path: Path, levels: Sequence[TiledLevel]) -> None:
    size = path.stat().st_size
    missing = sum(int((level.offsets + level.byte_counts > size).sum()) for level in levels)
    if missing:
        total = sum(len(level.offsets) for level in levels)
        raise SlideError(
            f"{path.name}: the file is truncated: {missing} of its {total} tiles lie beyond its "
            "end. Copy the file again from its source."
        )


def _jpeg_decoder(directory: TiffDirectory) -> Decoder:
    """Return a strict JPEG decoder that uses the directory's tables and declared colors."""
    stored_tables = directory.page.jpegtables
    tables = stored_tables[2:-2] if stored_tables else b""  # without the start and end markers
    start = b"\xff\xd8" + ADOBE_MARKER + bytes([not directory.is_rgb]) + tables
    width, height = directory.tile_size

    def decode(encoded: bytes, index: int) -> Pixels:
        # A damaged header may declare any size; the buffer holds one tile and no more.
        buffer = np.empty((height, width, 3), dtype=np.uint8)
        pixels: Pixels = simplejpeg.decode_jpeg(start + encoded[2:], buffer=buffer)
        return pixels

    return decode


def _tifffile_decoder(directory: TiffDirectory) -> Decoder:
    decode_segment = directory.page.decode

    def decode(encoded: bytes, index: int) -> Pixels:
        pixels, *_ = decode_segment(encoded, index)
        assert pixels is not None  # None is returned only for empty data
        return np.array(pixels[0])  # first of the depth axis; a copy, since raw data is read-only

    return decode


def _intersect(start: int, length: int, tile_start: int, side: int) -> tuple[slice, slice]:
    """Intersect a region and a tile along one axis.

    Returns:
        The intersection, in pixels from the region's start; and in pixels from the tile's start.
    """
    first, last = max(start, tile_start), min(start + length, tile_start + side)
    return slice(first - start, last - start), slice(first - tile_start, last - tile_start)
