"""Read TIFF files directly: plain pyramids, Aperio SVS, Motic, OME-TIFF and images in strips.

OpenSlide composes every tile onto a canvas, which takes longer than decoding it. This reader
locates a tile in the file, decodes it, and copies it at most once. Its pixels are identical to
OpenSlide's. A strip is read as a tile that is as wide as the image.

A damaged tile raises an error. Any warning of libjpeg counts as damage, which is stricter than
OpenSlide, except zeros before the end of a tile, which lose no pixel. Damage after which the data
is still a valid JPEG image is not detected, and neither is damage inside a JPEG 2000 tile;
OpenSlide does not detect them either.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache, partial

import numpy as np
from jaxtyping import UInt8
from tifffile import COMPRESSION

from parfocal.slide.errors import DamagedRegionError, one_line
from parfocal.slide.readers.openslide import CACHE_BYTES
from parfocal.slide.readers.oriented import OrientedScan
from parfocal.slide.readers.scan import Level, Metadata, Region, Scan, compute_levels
from parfocal.slide.readers.tiff_checks import MissingTiles, check_deferred, check_missing
from parfocal.slide.readers.tiff_directories import DAMAGE, TiffDirectory
from parfocal.slide.readers.tiff_pictures import find_levels, with_notes
from parfocal.slide.readers.tiff_pixels import (
    Samples,
    check_pixels,
    rgb_converter,
    used_bits,
)
from parfocal.slide.readers.tiled_level import WHITE, DeferredLevel, LevelTable, TiledLevel
from parfocal.slide.sources.source import ByteSource, Range
from parfocal.slide.sources.url import SlidePath

RAW_STRIP_PX = 2**20  # an uncompressed strip is read in parts of this size
SAMPLED_TILES = 64  # tiles that are read to find the largest value of a picture of 16 bits


class TiledTiffScan:
    """A tiled TIFF file; `open_tiled_tiff` opens one.

    A tile that is read in part is cached, because its neighbors will need the rest; a tile that is
    read whole is not.

    Args:
        path: the file.
        tiled_levels: the tiles of each level, sharpest first.
        metadata: metadata recorded in the file.
        source: the bytes of the file.
    """

    def __init__(
        self,
        path: SlidePath,
        tiled_levels: Sequence[TiledLevel | DeferredLevel],
        metadata: Metadata,
        source: ByteSource,
    ) -> None:
        self.levels: tuple[Level, ...] = compute_levels([level.size for level in tiled_levels])
        self.metadata = metadata
        self.source, self.sources = source, (source,)
        self._path, self._tiled_levels = path, LevelTable(tiled_levels)
        largest = max(3 * level.tile_size[0] * level.tile_size[1] for level in tiled_levels)
        # lru_cache holds no lock that a fork could copy in its locked state.
        self._read_cached = lru_cache(maxsize=max(1, CACHE_BYTES // largest))(self._read_tile)

    def read_level(
        self, level: int, x: int, y: int, width: int, height: int
    ) -> UInt8[np.ndarray, "height width 3"]:
        """Read stored pixels; see `Scan.read_level`."""
        self.read_ahead(level, [(x, y, width, height)])
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
    def reads_ahead(self) -> bool:
        """Whether the file is remote, or on a slow disk."""
        return self.source.reads_ahead

    def read_ahead(self, level: int, regions: Sequence[Region]) -> int:
        """Start fetching the tiles of regions; see `ReadsAhead`."""
        if not self.source.reads_ahead:
            return len(regions)
        tiles = self._tiled_levels[level]
        ranges: list[Range] = []
        ends = []  # number of ranges up to that of each region
        for region in regions:
            ranges += tiles.ranges(tiles.overlapping(*region))
            ends.append(len(ranges))
        fetched = self.source.read_ahead(ranges)
        return sum(end <= fetched for end in ends)

    def cancel(self) -> None:
        """Let reads that wait in other threads fail at once."""
        self.source.cancel()

    @property
    def spare_tiles(self) -> int:
        """Number of tiles with spare bytes before their end that have been read."""
        return sum(len(level.spare.tiles) for level in self._tiled_levels.loaded)

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
        self.source.close()
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
        encoded = self.source.read(int(tiles.offsets[index]), length)
        if len(encoded) < length:
            raise ValueError(f"the tile ends {length - len(encoded)} bytes beyond the file")
        return encoded


def open_tiled_tiff(
    path: SlidePath,
    directories: Sequence[TiffDirectory],
    source: ByteSource,
    *,
    missing_tiles: MissingTiles = "refuse",
) -> Scan:
    """Open a TIFF file that is read directly.

    Args:
        path: the file.
        directories: all its directories, which have been checked.
        source: the bytes of the file, which the scan closes.
        missing_tiles: what to do with tiles that are not stored.

    Raises:
        UnsupportedPixelsError: the pixels cannot be shown as RGB.
        SlideError: the file holds several pictures, or tiles are missing.
    """
    levels, metadata = find_levels(path, directories)
    for level in levels:
        check_pixels(level)
    if levels[0].bits == 16:  # all levels are needed now
        levels = [_load(path, level, source, missing_tiles) for level in levels]
    known = [level for level in levels if not level.deferred]
    notes = list(check_missing(path, known, missing_tiles))
    tiled_levels: list[TiledLevel | DeferredLevel] = [
        DeferredLevel(
            level.size, level.tile_size, partial(_load_tiled, path, level, source, missing_tiles)
        )
        if level.deferred
        else _split_raw_strips(level)
        for level in levels
    ]
    if levels[0].bits == 16:
        scaled, found = _scale_used_bits(path, levels, source)
        tiled_levels, notes = [*scaled], notes + found
    orientation = levels[0].orientation
    if orientation != 1:
        notes.append(f"Orientation is {orientation}; the picture is turned upright")
    scan = TiledTiffScan(path, tiled_levels, with_notes(metadata, notes), source)
    return scan if orientation == 1 else OrientedScan(scan, orientation)


def _load(
    path: SlidePath, level: TiffDirectory, source: ByteSource, missing_tiles: MissingTiles
) -> TiffDirectory:
    """Return a directory with the positions of its tiles, checked."""
    if not level.deferred:
        return level
    source.read_ahead([(array.position, array.length) for array in level.deferred.values()])
    check_deferred(path, source.size, level, missing_tiles)
    found = level.offsets, level.byte_counts, level.is_jfif
    level = replace(level, deferred={}, has_jfif=found[2])
    level.__dict__.update(offsets=found[0], byte_counts=found[1])  # as cached properties do
    return level


def _load_tiled(
    path: SlidePath, level: TiffDirectory, source: ByteSource, missing_tiles: MissingTiles
) -> TiledLevel:
    return _split_raw_strips(_load(path, level, source, missing_tiles))


def _scale_used_bits(
    path: SlidePath,
    levels: Sequence[TiffDirectory],
    source: ByteSource,
) -> tuple[list[TiledLevel], list[str]]:
    """Scale a picture of 16 bits by those that are used, since cameras have 10 to 16.

    Returns:
        The levels; and a note if not all bits are used.
    """
    tiled_levels = [_split_raw_strips(level) for level in levels]
    raw = replace(tiled_levels[-1], convert=None)
    largest = TiledTiffScan(path, [raw], Metadata("tiff"), source).largest_value(0)
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
