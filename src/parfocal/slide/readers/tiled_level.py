"""The tiles of one level of a file: where they lie, and how they are decoded."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64, UInt8

from parfocal.slide.readers.tiff_directories import TiffDirectory
from parfocal.slide.readers.tiff_pixels import (
    Converter,
    Decoder,
    SpareBytes,
    rgb_converter,
    tile_decoder,
)
from parfocal.slide.sources.source import Range

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

    def ranges(self, indices: Iterable[int]) -> Iterator[Range]:
        """Return where the bytes of tiles lie in the file, for those that are stored."""
        per_plane = len(self.offsets) // self.planes
        for index in indices:
            for number in range(index, len(self.offsets), per_plane):
                if self.byte_counts[number]:
                    yield int(self.offsets[number]), int(self.byte_counts[number])

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


@dataclass(frozen=True, eq=False)
class DeferredLevel:
    """A level whose tiles are looked up in the file when it is first read.

    Args:
        size: width and height of the level in pixels.
        tile_size: width and height of a tile in pixels.
        load: reads where the tiles lie; raises SlideError if they are damaged or missing.
    """

    size: tuple[int, int]
    tile_size: tuple[int, int]
    load: Callable[[], TiledLevel]


class LevelTable:
    """The levels of a file; a deferred one is loaded when it is first used."""

    def __init__(self, levels: Sequence[TiledLevel | DeferredLevel]) -> None:
        self._levels = list(levels)

    def __getitem__(self, number: int) -> TiledLevel:
        level = self._levels[number]
        if isinstance(level, DeferredLevel):
            level = self._levels[number] = level.load()
        return level

    @property
    def loaded(self) -> list[TiledLevel]:
        """The levels that are not deferred."""
        return [level for level in self._levels if isinstance(level, TiledLevel)]
