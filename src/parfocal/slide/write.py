"""Pixels -> a pyramidal TIFF, in bounded memory.

Level 0 is streamed tile by tile. Every lower level is built on the way from one row of its
tiles, which are encoded at once and kept as bytes; when level 0 is done they are appended.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Literal

import imagecodecs
import numpy as np
import tifffile
from jaxtyping import UInt8

from parfocal.files import whole_file
from parfocal.slide.shrink import shrink_whole

Pixels = UInt8[np.ndarray, "h w 3"]
Tile = Callable[[int, int], Pixels]
Encode = Callable[[Pixels], bytes]
Subsampling = Literal["4:4:4", "4:2:2", "4:2:0"]

SUBSAMPLINGS: dict[Subsampling, tuple[int, int]] = {
    "4:4:4": (1, 1),
    "4:2:2": (2, 1),
    "4:2:0": (2, 2),
}
CLASSIC_LIMIT = 2**32  # bytes; beyond, offsets need BigTIFF
SMALLEST = 512  # pixels; the default pyramid ends when its shorter side is less


def write_pyramid(
    path: Path,
    tile: Tile,
    size: tuple[int, int],
    *,
    mpp: float,
    downsamples: Sequence[int] | None = None,
    tile_size: int = 256,
    quality: int = 80,
    subsampling: Subsampling = "4:2:0",
    threads: int = 1,
) -> None:
    """Write a tiled JPEG TIFF that OpenSlide opens with the right mpp.

    It appears under its name when it is whole, and not at all if anything goes wrong.

    Args:
        path: where to; a file already there is replaced.
        tile: gives the level-0 pixels of the tile at (column, row). At the right and lower edge
            it may give a whole tile or only what lies inside the slide.
        size: width and height at level 0, in pixels.
        mpp: microns per level-0 pixel.
        downsamples: of each level, beginning with 1, each a whole multiple of the one before;
            None for powers of two until the shorter side is less than 512.
        tile_size: side of a stored tile, a multiple of 16.
        quality: of the JPEG, 1 to 100.
        subsampling: of its colors; "4:4:4" where a tiny colored target must survive.
        threads: how many call `tile` and encode at once.

    Raises:
        ValueError: a setting that makes no pyramid.
        OSError: the disk is full, or the folder cannot be written to.
    """
    steps = tuple(downsamples or default_downsamples(size))
    _check(size, mpp, steps, tile_size)
    blank: dict[bytes, bytes] = {}  # glass is most of a slide, so it is encoded once

    def encode(pixels: Pixels) -> bytes:
        color = pixels[0, 0].tobytes()
        if pixels[-1, -1].tobytes() != color or (pixels != pixels[0, 0]).any():
            return _encode(pixels, quality, subsampling)
        if color not in blank:
            blank[color] = _encode(pixels, quality, subsampling)
        return blank[color]

    with whole_file(path) as part, ThreadPoolExecutor(threads) as pool:
        cascade = _Cascade(size, steps, tile_size, encode, pool)
        with tifffile.TiffWriter(part, bigtiff=3 * size[0] * size[1] > CLASSIC_LIMIT) as tiff:
            for step, level in zip(steps, cascade.levels, strict=True):
                tiff.write(
                    cascade.stream(tile) if step == 1 else iter(level.encoded),
                    shape=(level.height, level.width, 3),
                    dtype=np.uint8,
                    tile=(tile_size, tile_size),
                    photometric="ycbcr",  # of the tiles, which come encoded
                    compression="jpeg",
                    subsampling=SUBSAMPLINGS[subsampling],
                    resolution=(1e4 / (mpp * step),) * 2,
                    resolutionunit="CENTIMETER",
                    subfiletype=0 if step == 1 else 1,  # OpenSlide skips others below the first
                    metadata=None,
                    software="parfocal",
                )


def default_downsamples(size: tuple[int, int]) -> tuple[int, ...]:
    """Give powers of two, until the shorter side is less than 512 pixels.

    >>> default_downsamples((4096, 3000))
    (1, 2, 4, 8)
    """
    downsamples = [1]
    while min(size) // downsamples[-1] >= SMALLEST:
        downsamples.append(2 * downsamples[-1])
    return tuple(downsamples)


class _Level:
    """One level: its size, and the row of tiles that is being filled from the level above."""

    def __init__(self, width: int, height: int, side: int) -> None:
        self.width, self.height, self._side = width, height, side
        self.columns, self.rows = -(-width // side), -(-height // side)
        self.band = np.empty((0, 0, 3), dtype=np.uint8)
        self.encoded: list[bytes] = []

    def cut(self, column: int) -> Pixels:
        """Give a tile of the row that was filled."""
        return self.band[:, column * self._side : (column + 1) * self._side]

    def fitted(self, pixels: Pixels, column: int, row: int) -> UInt8[np.ndarray, "s s 3"]:
        """Give a whole tile: beyond the edge of the level its last pixels are repeated.

        Anything else there would ring in the JPEG blocks that the edge runs through.
        """
        width = min(self._side, self.width - column * self._side)
        height = min(self._side, self.height - row * self._side)
        if pixels.shape[0] < height or pixels.shape[1] < width:
            raise ValueError(
                f"tile({column}, {row}) gave {pixels.shape[1]} x {pixels.shape[0]} pixels where "
                f"{width} x {height} lie inside the slide; it must give at least those."
            )
        beyond = ((0, self._side - height), (0, self._side - width), (0, 0))
        return np.pad(pixels[:height, :width], beyond, mode="edge")


class _Cascade:
    """All levels of a pyramid, filled while level 0 streams by."""

    def __init__(
        self,
        size: tuple[int, int],
        steps: tuple[int, ...],
        side: int,
        encode: Encode,
        pool: ThreadPoolExecutor,
    ) -> None:
        self.levels = [_Level(size[0] // step, size[1] // step, side) for step in steps]
        self._ratios = [below // above for above, below in pairwise(steps)]
        self._side, self._encode, self._pool = side, encode, pool

    def stream(self, tile: Tile) -> Iterator[bytes]:
        """Give the tiles of level 0, encoded, and fill the levels below on the way."""
        for row in range(self.levels[0].rows):
            # Whole rows, since a generator is not resumed after its last tile.
            yield from self._row(0, row, partial(_swapped, tile, row))

    def _row(self, number: int, row: int, tile: Callable[[int], Pixels]) -> list[bytes]:
        """Encode one row of a level's tiles, and the rows below that it completes."""
        level = self.levels[number]
        below = self.levels[number + 1] if number + 1 < len(self.levels) else None
        ratio = self._ratios[number] if below else 1
        part = self._side // ratio  # of a tile below that one of this level fills
        top = row % ratio * part
        if below and top == 0:
            width = -(-level.columns // ratio) * self._side
            below.band = np.zeros((self._side, width, 3), dtype=np.uint8)

        def finish(column: int) -> bytes:
            pixels = level.fitted(tile(column), column, row)
            if below:
                place = np.s_[top : top + part, column * part : (column + 1) * part]
                below.band[place] = shrink_whole(pixels, (ratio, ratio))
            return self._encode(pixels)

        encoded = list(self._pool.map(finish, range(level.columns)))
        complete = top + part == self._side or row + 1 == level.rows
        if below and complete and row // ratio < below.rows:
            below.encoded += self._row(number + 1, row // ratio, below.cut)
        return encoded


def _swapped(tile: Tile, row: int, column: int) -> Pixels:
    return tile(column, row)


def _encode(pixels: Pixels, quality: int, subsampling: Subsampling) -> bytes:
    encoded = imagecodecs.jpeg8_encode(
        np.ascontiguousarray(pixels),
        level=quality,
        colorspace="RGB",
        outcolorspace="YCBCR",
        subsampling=SUBSAMPLINGS[subsampling],
    )
    return bytes(encoded)


def _check(size: tuple[int, int], mpp: float, steps: tuple[int, ...], tile_size: int) -> None:
    """Refuse settings that make no pyramid."""
    if min(size) < 1 or not 0 < mpp < np.inf:
        raise ValueError(f"a slide of {size[0]} x {size[1]} pixels of {mpp:g} um cannot be written")
    if tile_size < 16 or tile_size % 16:
        raise ValueError(f"tile_size must be a multiple of 16, not {tile_size}")
    ratios = [below / above for above, below in pairwise(steps)]
    if steps[0] != 1 or any(ratio < 2 or tile_size % ratio for ratio in ratios):
        raise ValueError(
            f"downsamples must begin with 1 and grow by whole steps that divide the tile size "
            f"{tile_size}, as 1, 4, 16; not {', '.join(map(str, steps))}"
        )
    if min(size) < steps[-1]:
        raise ValueError(
            f"a slide of {size[0]} x {size[1]} pixels has no level at 1/{steps[-1]}; leave it out"
        )
