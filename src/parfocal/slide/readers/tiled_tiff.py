"""Read TIFF files directly: plain pyramids, Aperio SVS, Motic, OME-TIFF and images in strips.

OpenSlide composes every tile onto a canvas, which takes longer than decoding it. This reader
locates a tile in the file, decodes it, and copies it at most once. Its pixels are identical to
OpenSlide's. A strip is read as a tile that is as wide as the image.

A damaged tile raises an error. Any warning of libjpeg counts as damage, which is stricter than
OpenSlide, except zeros before the end of a tile, which lose no pixel. Damage after which the data
is still a valid JPEG image is not detected, and neither is damage inside a JPEG 2000 tile;
OpenSlide does not detect them either.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8
from tifffile import COMPRESSION

from parfocal.cost import CostMeter
from parfocal.files import PositionedFile
from parfocal.slide.errors import DamagedRegionError, one_line
from parfocal.slide.readers.openslide import CACHE_BYTES
from parfocal.slide.readers.oriented import OrientedScan
from parfocal.slide.readers.scan import Level, Metadata, Scan, compute_levels
from parfocal.slide.readers.tiff_checks import MissingTiles, check_missing
from parfocal.slide.readers.tiff_directories import DAMAGE, TiffDirectory
from parfocal.slide.readers.tiff_pictures import find_levels, with_notes
from parfocal.slide.readers.tiff_pixels import (
    Converter,
    Decoder,
    Samples,
    SpareBytes,
    check_pixels,
    rgb_converter,
    tile_decoder,
    used_bits,
)

RAW_STRIP_PX = 2**20  # an uncompressed strip is read in parts of this size
SAMPLED_TILES = 64  # tiles that are read to find the largest value of a picture of 16 bits
WHITE = 255


@dataclass(frozen=True, eq=False)
class TiledLevel:
    """The tiles of one level.

    Args:
        size: width and height of the level in pixels.
        tile_size: width and height of a tile in pixels.
        offsets: position in the file of each tile, row by row.
        byte_counts: length in bytes of each tile; 0 for a tile that is not stored.
        decode: decodes a tile, or one plane of it, from its bytes and its index.
        planes: number of planes of a tile; those of one plane follow those of the one before.
        convert: converts decoded samples to RGB; None if they are RGB.
        spare: tiles with spare bytes that were read.
    """

    size: tuple[int, int]
    tile_size: tuple[int, int]
    offsets: Int64[np.ndarray, " n"]
    byte_counts: Int64[np.ndarray, " n"]
    decode: Decoder
    planes: int
    convert: Converter | None
    spare: SpareBytes

    @classmethod
    def from_directory(cls, directory: TiffDirectory) -> "TiledLevel":
        """Build a level from a directory whose tiles can be decoded."""
        spare = SpareBytes(set())
        byte_counts = np.where(directory.is_stored, directory.byte_counts, 0)
        return cls(
            size=directory.size,
            tile_size=directory.tile_size,
            offsets=directory.offsets,
            byte_counts=byte_counts,
            decode=tile_decoder(directory, spare),
            planes=directory.planes,
            convert=rgb_converter(directory, directory.bits),
            spare=spare,
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

    def fit_tile(
        self, pixels: UInt8[np.ndarray, "r w 3"], index: int
    ) -> UInt8[np.ndarray, "h w 3"]:
        """Return a decoded tile in its full size: the last strip has the remaining rows only.

        Raises:
            ValueError: the tile has another size.
        """
        width, height = self.tile_size
        rows = min(height, self.size[1] - self.corner(index)[1])
        if width != self.size[0] or pixels.shape != (rows, width, 3):
            raise ValueError(f"the tile decodes to {pixels.shape[1]} x {pixels.shape[0]} px")
        whole = np.full((height, width, 3), WHITE, dtype=np.uint8)
        whole[:rows] = pixels
        return whole


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

    @property
    def spare_tiles(self) -> int:
        """Number of tiles with spare bytes before their end that have been read."""
        return sum(len(level.spare.tiles) for level in self._tiled_levels)

    def largest_value(self, level: int) -> int:
        """Return the largest stored value in evenly spaced tiles of a level that is not converted.

        Damaged tiles are skipped, since reading them raises an error.
        """
        tiles, largest = self._tiled_levels[level], 0
        stored = np.flatnonzero(tiles.byte_counts[: len(tiles.offsets) // tiles.planes])
        for index in np.unique(np.linspace(0, len(stored) - 1, SAMPLED_TILES).astype(int)):
            with suppress(*DAMAGE, RuntimeError):
                largest = max(largest, int(self._decode(tiles, int(stored[index])).max()))
        return largest

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        self._read_cached.cache_clear()

    def _read_tile(self, level: int, index: int) -> UInt8[np.ndarray, "h w 3"]:
        tiles = self._tiled_levels[level]
        width, height = tiles.tile_size
        try:
            if tiles.byte_counts[index] == 0:
                return np.full((height, width, 3), WHITE, dtype=np.uint8)
            pixels = self._decode(tiles, index)
            if pixels.shape != (height, width, 3):
                pixels = tiles.fit_tile(pixels, index)
        except (*DAMAGE, RuntimeError) as error:
            downsample = self.levels[level].downsample
            x, y = (round(corner * downsample) for corner in tiles.corner(index))
            raise DamagedRegionError(
                self._path, (x, y), (width, height), level, one_line(error)
            ) from error
        return pixels

    def _decode(self, tiles: TiledLevel, index: int) -> Samples:
        if tiles.planes == 1:
            samples = tiles.decode(self._read_bytes(tiles, index), index)
        else:
            per_plane = len(tiles.offsets) // tiles.planes
            indices = (index + plane * per_plane for plane in range(tiles.planes))
            planes = [tiles.decode(self._read_bytes(tiles, i), i) for i in indices]
            samples = np.concatenate(planes, axis=2)
        return samples if tiles.convert is None else tiles.convert(samples)

    def _read_bytes(self, tiles: TiledLevel, index: int) -> bytes:
        length = int(tiles.byte_counts[index])
        encoded = self._file.read(length, int(tiles.offsets[index]))
        self._cost_meter.add_bytes(len(encoded))
        if len(encoded) < length:
            raise ValueError(f"the tile ends {length - len(encoded)} bytes beyond the file")
        return encoded


def open_tiled_tiff(
    path: Path,
    directories: Sequence[TiffDirectory],
    cost_meter: CostMeter,
    *,
    missing_tiles: MissingTiles = "refuse",
) -> Scan:
    """Open a TIFF file that is read directly.

    Args:
        path: the file.
        directories: all its directories, which have been checked.
        cost_meter: counts the bytes of the tiles that are read; directories are not counted.
        missing_tiles: what to do with tiles that are not stored.

    Raises:
        UnsupportedPixelsError: the pixels cannot be shown as RGB.
        SlideError: the file holds several pictures, or tiles are missing.
    """
    levels, metadata = find_levels(path, directories)
    for level in levels:
        check_pixels(level)
    notes = list(check_missing(path, levels, missing_tiles))
    tiled_levels = [_split_raw_strips(level) for level in levels]
    if levels[0].bits == 16:
        tiled_levels, found = _scale_used_bits(path, levels, tiled_levels)
        notes += found
    orientation = levels[0].orientation
    if orientation != 1:
        notes.append(f"Orientation is {orientation}; the picture is turned upright")
    scan = TiledTiffScan(path, tiled_levels, with_notes(metadata, notes), cost_meter)
    return scan if orientation == 1 else OrientedScan(scan, orientation)


def _scale_used_bits(
    path: Path, levels: Sequence[TiffDirectory], tiled_levels: Sequence[TiledLevel]
) -> tuple[list[TiledLevel], list[str]]:
    """Scale a picture of 16 bits by those that are used, since cameras have 10 to 16.

    Returns:
        The levels; and a note if not all bits are used.
    """
    raw = replace(tiled_levels[-1], convert=None)
    probe = TiledTiffScan(path, [raw], Metadata("tiff"), CostMeter())
    largest = probe.largest_value(0)
    probe.close()
    bits = used_bits(levels[0], largest)
    scaled = [
        replace(level, convert=rgb_converter(directory, bits))
        for level, directory in zip(tiled_levels, levels, strict=True)
    ]
    if bits == levels[0].bits:
        return scaled, []
    return scaled, [
        f"{levels[0].bits} bits per sample, but the largest value is {largest}; "
        f"{bits} bits are shown"
    ]


def _split_raw_strips(directory: TiffDirectory) -> TiledLevel:
    """Build a level, whose long uncompressed strips are divided so that each is read in parts."""
    level = TiledLevel.from_directory(directory)
    width, rows = level.tile_size
    is_raw = directory.page.compression == COMPRESSION.NONE and directory.bits in (8, 16)
    if directory.is_tiled or not is_raw or width * rows <= RAW_STRIP_PX or directory.planes > 1:
        return level
    ends = level.offsets + level.byte_counts
    if not directory.is_stored.all() or (level.offsets[1:] != ends[:-1]).any():
        return level  # the strips do not follow one another
    part_rows = max(1, RAW_STRIP_PX // width)
    starts = np.arange(0, level.size[1], part_rows)
    row_bytes = int(level.byte_counts.sum()) // level.size[1]
    return replace(
        level,
        tile_size=(width, part_rows),
        offsets=level.offsets[0] + starts * row_bytes,
        byte_counts=np.minimum(part_rows, level.size[1] - starts) * row_bytes,
    )


def _intersect(start: int, length: int, tile_start: int, side: int) -> tuple[slice, slice]:
    """Intersect a region and a tile along one axis.

    Returns:
        The intersection, in pixels from the region's start; and in pixels from the tile's start.
    """
    first, last = max(start, tile_start), min(start + length, tile_start + side)
    return slice(first - start, last - start), slice(first - tile_start, last - tile_start)
