"""Write a pyramidal TIFF in bounded memory.

Level 0 is streamed tile by tile. Meanwhile each smaller level is built from one row of tiles at a
time; its encoded tiles are kept in memory and appended after level 0.
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
TileSource = Callable[[int, int], Pixels]
Encoder = Callable[[Pixels], bytes]
Subsampling = Literal["4:4:4", "4:2:2", "4:2:0"]

SUBSAMPLINGS: dict[Subsampling, tuple[int, int]] = {
    "4:4:4": (1, 1),
    "4:2:2": (2, 1),
    "4:2:0": (2, 2),
}
CLASSIC_LIMIT = 2**32  # bytes; the offsets of larger files need BigTIFF
MIN_SIDE_PX = 512  # the default pyramid ends when its shorter side is less


def write_pyramid(
    path: Path,
    tile: TileSource,
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

    The file appears under its name only once it is complete.

    Args:
        path: the file to write; an existing file is replaced.
        tile: returns the level-0 pixels of the tile at (column, row). At the right and bottom edge
            it may return a whole tile or only the part inside the slide.
        size: width and height in level-0 pixels.
        mpp: microns per level-0 pixel.
        downsamples: downsample of each level, beginning with 1, each a whole multiple of the one
            before; None for powers of two until the shorter side is less than 512.
        tile_size: side of a stored tile in pixels, a multiple of 16.
        quality: JPEG quality, 1 to 100.
        subsampling: JPEG chroma subsampling; "4:4:4" preserves small colored details.
        threads: number of threads that call `tile` and encode.

    Raises:
        ValueError: a setting is invalid.
        OSError: the disk is full, or the folder is not writable.
    """
    steps = tuple(downsamples or default_downsamples(size))
    _check(size, mpp, steps, tile_size)
    blank: dict[bytes, bytes] = {}  # most of a slide is glass, which is encoded once

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
                    photometric="ycbcr",  # the colors inside the encoded tiles
                    compression="jpeg",
                    subsampling=SUBSAMPLINGS[subsampling],
                    resolution=(1e4 / (mpp * step),) * 2,
                    resolutionunit="CENTIMETER",
                    subfiletype=0 if step == 1 else 1,  # OpenSlide ignores other smaller images
                    metadata=None,
                    software="parfocal",
                )


def default_downsamples(size: tuple[int, int]) -> tuple[int, ...]:
    """Return powers of two, until the shorter side is less than 512 pixels.

    >>> default_downsamples((4096, 3000))
    (1, 2, 4, 8)
    """
    downsamples = [1]
    while min(size) // downsamples[-1] >= MIN_SIDE_PX:
        downsamples.append(2 * downsamples[-1])
    return tuple(downsamples)


class _Level:
    """One level: its size, and the row of tiles that is being filled from the sharper level."""

    def __init__(self, width: int, height: int, side: int) -> None:
        self.width, self.height, self._side = width, height, side
        self.columns, self.rows = -(-width // side), -(-height // side)
        self.band = np.empty((0, 0, 3), dtype=np.uint8)
        self.encoded: list[bytes] = []

    def cut(self, column: int) -> Pixels:
        """Return a tile of the current row."""
        return self.band[:, column * self._side : (column + 1) * self._side]

    def fit_tile(self, pixels: Pixels, column: int, row: int) -> UInt8[np.ndarray, "s s 3"]:
        """Return a whole tile, padded beyond the edge of the level by repeating its last pixels.

        Other padding would cause ringing in the JPEG blocks that cross the edge.
        """
        width = min(self._side, self.width - column * self._side)
        height = min(self._side, self.height - row * self._side)
        if pixels.shape[0] < height or pixels.shape[1] < width:
            raise ValueError(
                f"tile({column}, {row}) returned {pixels.shape[1]} x {pixels.shape[0]} pixels, but "
                f"{width} x {height} lie inside the slide. It must return at least those."
            )
        padding = ((0, self._side - height), (0, self._side - width), (0, 0))
        return np.pad(pixels[:height, :width], padding, mode="edge")


class _Cascade:
    """All levels of a pyramid, filled while level 0 is streamed."""

    def __init__(
        self,
        size: tuple[int, int],
        steps: tuple[int, ...],
        side: int,
        encode: Encoder,
        pool: ThreadPoolExecutor,
    ) -> None:
        self.levels = [_Level(size[0] // step, size[1] // step, side) for step in steps]
        self._ratios = [coarse // fine for fine, coarse in pairwise(steps)]
        self._side, self._encode, self._pool = side, encode, pool

    def stream(self, tile: TileSource) -> Iterator[bytes]:
        """Return the encoded tiles of level 0, and fill the smaller levels meanwhile."""
        for row in range(self.levels[0].rows):
            # Yield whole rows, since a generator is not resumed after its last tile.
            yield from self._row(0, row, partial(_tile_of_row, tile, row))

    def _row(self, number: int, row: int, tile: Callable[[int], Pixels]) -> list[bytes]:
        """Encode one row of a level's tiles, and the rows of smaller levels that it completes."""
        level = self.levels[number]
        smaller = self.levels[number + 1] if number + 1 < len(self.levels) else None
        ratio = self._ratios[number] if smaller else 1
        part = self._side // ratio  # side of what a tile of this level fills in one of the next
        top = row % ratio * part
        if smaller and top == 0:
            width = -(-level.columns // ratio) * self._side
            smaller.band = np.zeros((self._side, width, 3), dtype=np.uint8)

        def finish_tile(column: int) -> bytes:
            pixels = level.fit_tile(tile(column), column, row)
            if smaller:
                place = np.s_[top : top + part, column * part : (column + 1) * part]
                smaller.band[place] = shrink_whole(pixels, (ratio, ratio))
            return self._encode(pixels)

        encoded = list(self._pool.map(finish_tile, range(level.columns)))
        is_complete = top + part == self._side or row + 1 == level.rows
        if smaller and is_complete and row // ratio < smaller.rows:
            smaller.encoded += self._row(number + 1, row // ratio, smaller.cut)
        return encoded


def _tile_of_row(tile: TileSource, row: int, column: int) -> Pixels:
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
    """Raise if the settings make no pyramid."""
    if min(size) < 1 or not 0 < mpp < np.inf:
        raise ValueError(
            f"cannot write a slide of {size[0]} x {size[1]} pixels with {mpp:g} µm per pixel; all "
            "must be positive"
        )
    if tile_size < 16 or tile_size % 16:
        raise ValueError(f"tile_size must be a multiple of 16, not {tile_size}")
    ratios = [coarse / fine for fine, coarse in pairwise(steps)]
    if steps[0] != 1 or any(ratio < 2 or tile_size % ratio for ratio in ratios):
        raise ValueError(
            f"downsamples must begin with 1 and grow by whole factors that divide the tile size "
            f"{tile_size}, such as 1, 4, 16; not {', '.join(map(str, steps))}"
        )
    if min(size) < steps[-1]:
        raise ValueError(
            f"a slide of {size[0]} x {size[1]} pixels is too small for a level at 1/{steps[-1]}; "
            "remove that downsample"
        )
