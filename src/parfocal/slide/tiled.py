"""Tiled TIFF, read directly: plain pyramids, Aperio SVS and OME-TIFF.

OpenSlide lays every tile on a canvas, which takes longer than decoding it. Here a tile is found by
its place in the file, decoded, and copied at most once; the pixels are the same to the bit. Which
files are read so is told in `pages.py`.

A damaged tile is an error. Any warning of libjpeg counts as damage, here oftener than in OpenSlide;
what passes is data that still is a valid JPEG, as after many a flipped bit. Damage inside a JPEG
2000 tile passes OpenJPEG, here as in OpenSlide.
"""

import os
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import simplejpeg
from jaxtyping import Int64, UInt8
from tifffile import COMPRESSION, PHOTOMETRIC, TiffFile, TiffPage

from parfocal.cost import CostMeter
from parfocal.slide.array import directories_end
from parfocal.slide.errors import DamagedRegionError, SlideError
from parfocal.slide.openslide import CACHE_BYTES, one_line
from parfocal.slide.pages import VENDORS, find_pyramid
from parfocal.slide.scan import Level, Record, Scan, levels_of
from parfocal.slide.tiff import MAGIC

Pixels = UInt8[np.ndarray, "h w 3"]
Decode = Callable[[bytes, int], Pixels]

ADOBE = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"  # and a byte: 0 for RGB, 1 for YCbCr


@dataclass(frozen=True, eq=False)
class StoredTiles:
    """The tiles of one level: where they lie in the file, row by row, and what decodes them."""

    size: tuple[int, int]
    tile_size: tuple[int, int]
    offsets: Int64[np.ndarray, " n"]
    lengths: Int64[np.ndarray, " n"]
    decode: Decode

    @classmethod
    def of(cls, page: TiffPage) -> "StoredTiles":
        """Take down what a page says."""
        is_jpeg = page.compression == COMPRESSION.JPEG
        return cls(
            size=(page.imagewidth, page.imagelength),
            tile_size=(page.tilewidth, page.tilelength),
            offsets=np.array(page.dataoffsets, dtype=np.int64),
            lengths=np.array(page.databytecounts, dtype=np.int64),
            decode=_jpeg_decoder(page) if is_jpeg else _other_decoder(page),
        )

    @property
    def columns(self) -> int:
        """How many tiles a row has."""
        return -(-self.size[0] // self.tile_size[0])

    def touched(self, x: int, y: int, width: int, height: int) -> Iterator[int]:
        """Give the tiles that a region touches."""
        wide, high = self.tile_size
        for row in range(y // high, -(-(y + height) // high)):
            for column in range(x // wide, -(-(x + width) // wide)):
                yield row * self.columns + column

    def corner(self, index: int) -> tuple[int, int]:
        """Give where a tile begins."""
        row, column = divmod(index, self.columns)
        return column * self.tile_size[0], row * self.tile_size[1]


class TiledScan:
    """A tiled TIFF; see `open_tiled`.

    A tile of which a part is asked for is kept for a while, as its neighbors will ask for the
    rest; one that is asked for whole is not.

    Args:
        path: the file.
        tiles: of each level, sharpest first.
        record: what the file says of itself.
        bill: where the bytes of tiles are written.
    """

    def __init__(
        self, path: Path, tiles: Sequence[StoredTiles], record: Record, bill: CostMeter
    ) -> None:
        self.levels: tuple[Level, ...] = levels_of([level.size for level in tiles])
        self.record = record
        self._path, self._tiles, self._bill = path, tuple(tiles), bill
        # Threads and forked processes share it: pread neither uses nor moves a position.
        self._file = os.open(path, os.O_RDONLY)
        self._let_go = weakref.finalize(self, os.close, self._file)
        largest = max(3 * level.tile_size[0] * level.tile_size[1] for level in tiles)
        # It holds no lock that a fork could copy locked.
        self._kept = lru_cache(maxsize=max(1, CACHE_BYTES // largest))(self._decoded)

    def read_level(
        self, level: int, x: int, y: int, width: int, height: int
    ) -> UInt8[np.ndarray, "height width 3"]:
        """Read stored pixels."""
        tiles = self._tiles[level]
        wide, high = tiles.tile_size
        if (x % wide, y % high, width, height) == (0, 0, wide, high):
            return self._decoded(level, next(tiles.touched(x, y, width, height)))
        pixels = np.empty((height, width, 3), dtype=np.uint8)
        for index in tiles.touched(x, y, width, height):
            left, top = tiles.corner(index)
            to_columns, columns = _in_common(x, width, left, wide)
            to_rows, rows = _in_common(y, height, top, high)
            whole = (columns, rows) == (slice(0, wide), slice(0, high))
            tile = self._decoded(level, index) if whole else self._kept(level, index)
            pixels[to_rows, to_columns] = tile[rows, columns]
        return pixels

    def close(self) -> None:
        """Close the file."""
        self._let_go()
        self._kept.cache_clear()

    def _decoded(self, level: int, index: int) -> UInt8[np.ndarray, "h w 3"]:
        tiles = self._tiles[level]
        wide, high = tiles.tile_size
        length = int(tiles.lengths[index])
        try:
            encoded = os.pread(self._file, length, int(tiles.offsets[index]))
            self._bill.add_bytes(len(encoded))
            if len(encoded) < length:
                raise ValueError(f"the file ends {length - len(encoded)} bytes before the tile")
            pixels = tiles.decode(encoded, index)
            if pixels.shape != (high, wide, 3):
                raise ValueError(f"it decodes to {pixels.shape[1]} x {pixels.shape[0]} px")
        except (OSError, RuntimeError, ValueError) as error:  # the last two are the decoders'
            downsample = self.levels[level].downsample
            x, y = (round(corner * downsample) for corner in tiles.corner(index))
            raise DamagedRegionError(
                self._path, (x, y), (wide, high), level, one_line(error)
            ) from error
        return pixels


def open_tiled(path: Path, known: Scan | None, bill: CostMeter) -> TiledScan | None:
    """Open a tiled TIFF that can be read directly; None for any other file.

    Args:
        path: the file.
        known: the same, opened by OpenSlide; None where it does not know the format.
        bill: where the bytes of tiles are written; the directories are not counted.

    Raises:
        SlideError: tiles lie beyond the end of the file.
    """
    if not (_is_whole_tiff(path) if known is None else known.record.vendor in VENDORS):
        return None
    try:
        with TiffFile(path) as tiff:
            found = find_pyramid(tiff, known)
            tiles = [StoredTiles.of(page) for page in found.pages] if found else []
    except (ArithmeticError, LookupError, TypeError, ValueError):
        return None  # damaged tags, which raise anything; the others can tell what is wrong
    if found is None:
        return None
    _check_length(path, tiles)
    return TiledScan(path, tiles, found.record, bill)


def _is_whole_tiff(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) in MAGIC and directories_end(file)


def _check_length(path: Path, tiles: Sequence[StoredTiles]) -> None:
    size = path.stat().st_size
    lost = sum(int((level.offsets + level.lengths > size).sum()) for level in tiles)
    if lost:
        every = sum(len(level.offsets) for level in tiles)
        raise SlideError(
            f"{path.name}: cut short: {lost} of its {every} tiles lie beyond its end; copy the "
            "file again from its source."
        )


def _jpeg_decoder(page: TiffPage) -> Decode:
    """Decode strictly, by the page's tables, into RGB from the colors that its tag says."""
    tables = page.jpegtables[2:-2] if page.jpegtables else b""  # less the marks of start and end
    colors = bytes([page.photometric == PHOTOMETRIC.YCBCR])
    start = b"\xff\xd8" + ADOBE + colors + tables
    shape = page.tilelength, page.tilewidth, 3

    def decode(encoded: bytes, index: int) -> Pixels:
        room = np.empty(shape, dtype=np.uint8)  # for no more, whatever a damaged header claims
        pixels: Pixels = simplejpeg.decode_jpeg(start + encoded[2:], buffer=room)
        return pixels

    return decode


def _other_decoder(page: TiffPage) -> Decode:
    decode_segment = page.decode

    def decode(encoded: bytes, index: int) -> Pixels:
        pixels, *_ = decode_segment(encoded, index)
        assert pixels is not None  # it is for no data alone
        return np.array(pixels[0])  # the first, in depth; a copy, as raw data cannot be written to

    return decode


def _in_common(wanted: int, length: int, start: int, side: int) -> tuple[slice, slice]:
    """Give where a tile lies in what is wanted, and that in the tile, along one axis."""
    first, last = max(wanted, start), min(wanted + length, start + side)
    return slice(first - wanted, last - wanted), slice(first - start, last - start)
