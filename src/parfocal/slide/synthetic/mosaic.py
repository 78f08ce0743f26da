"""Endless pixels from a few textures: placed side by side, rotated, and blended at the seams."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, UInt8

from parfocal.slide.synthetic.layout import Layout

Squares = UInt8[np.ndarray, "n s s 3"]
Pixels = UInt8[np.ndarray, "h w 3"]

TABLE = (61, 67)  # rows and columns of cells after which the choice of textures repeats


@dataclass(frozen=True)
class Textures:
    """Squares of texture, any number of each kind, all of one size.

    Args:
        plain: inconspicuous tissue.
        region: benign tissue that is conspicuous at low magnification.
        lesion: tissue of a region with a lesion. If there are as many squares as in `region`,
            squares of the same index are used at the same place.
        glass: color of glass.
        second: tissue of a region with a lesion of a second kind; None if there are none.
    """

    plain: UInt8[np.ndarray, "n s s 3"]
    region: UInt8[np.ndarray, "m s s 3"]
    lesion: UInt8[np.ndarray, "l s s 3"]
    glass: UInt8[np.ndarray, " 3"]
    second: UInt8[np.ndarray, "k s s 3"] | None = None


@dataclass(frozen=True)
class Overlap:
    """The overlap of a cell of the mosaic and a tile along one axis.

    Args:
        cell: index of the cell.
        tile: pixels of the tile.
        texture: pixels of the cell's texture.
        fade: blending weights of the first pixels over those of the previous cell.
    """

    cell: int
    tile: slice
    texture: slice
    fade: Float32[np.ndarray, " f"]


class Mosaic:
    """The pixels of one slide, computed on request.

    Args:
        layout: the tissue, regions and lesions.
        textures: their textures.
        rng: random generator for the choice and rotation of the squares of texture.
        overlap: width in pixels over which neighboring squares are blended.
    """

    def __init__(
        self, layout: Layout, textures: Textures, rng: np.random.Generator, *, overlap: int
    ) -> None:
        self._layout, self._textures, self._overlap = layout, textures, overlap
        self._choice = rng.integers(2**31, size=TABLE)
        self._rotation = rng.integers(8, size=TABLE)

    def tile(self, x: int, y: int, side: int) -> Pixels:
        """Compute the pixels of a square whose top-left pixel is (x, y)."""
        masks = self._layout.masks(x, y, side)
        glass = np.broadcast_to(self._textures.glass, (side, side, 3))
        if masks.tissue is None or not masks.tissue.any():
            return glass
        pixels = self._window(self._textures.plain, x, y, side)
        layers = (
            (self._textures.region, masks.regions),
            (self._textures.lesion, masks.lesions),
            (self._textures.second, masks.second),
        )
        for kind, mask in layers:
            if mask is not None and kind is not None:
                pixels = _blend(pixels, self._window(kind, x, y, side), mask[..., None])
        return _blend(glass, pixels, masks.tissue[..., None])

    def _window(self, kind: Squares, x: int, y: int, side: int) -> Pixels:
        """Compute a square of the mosaic of one kind of texture."""
        pixels = np.empty((side, side, 3), dtype=np.uint8)
        for down in self._overlaps(y, side, kind.shape[1]):
            rows = pixels[down.tile].copy()
            for across in self._overlaps(x, side, kind.shape[1]):
                texture = self._texture(kind, down.cell, across.cell)
                piece = texture[down.texture, across.texture].swapaxes(0, 1)
                _overlay(rows.swapaxes(0, 1)[across.tile], piece, across.fade)
            _overlay(pixels[down.tile], rows, down.fade)
        return pixels

    def _texture(self, kind: Squares, row: int, column: int) -> Pixels:
        """Return the texture of a cell, mirrored or rotated."""
        place = (row % TABLE[0], column % TABLE[1])
        texture, rotation = kind[self._choice[place] % len(kind)], int(self._rotation[place])
        if rotation & 4:
            texture = texture.swapaxes(0, 1)
        down, across = (-1 if rotation & 2 else 1), (-1 if rotation & 1 else 1)
        oriented: Pixels = texture[::down, ::across]
        return oriented

    def _overlaps(self, start: int, length: int, side: int) -> Iterator[Overlap]:
        """Return the cells that overlap `length` pixels from `start` along an axis."""
        pitch = side - self._overlap
        for cell in range((start - self._overlap) // pitch, (start + length - 1) // pitch + 1):
            first = max(start, cell * pitch)
            last = min(start + length, cell * pitch + side)
            if first < last:
                offsets = np.arange(first, last, dtype=np.float32) - cell * pitch
                fade = (offsets[offsets < self._overlap] + 0.5) / self._overlap
                tile = slice(first - start, last - start)
                yield Overlap(cell, tile, slice(first - cell * pitch, last - cell * pitch), fade)


def _overlay(below: Pixels, piece: Pixels, fade: Float32[np.ndarray, " f"]) -> None:
    """Write a piece over existing pixels, blending the first rows."""
    count = len(fade)
    below[:count] = _blend(below[:count], piece[:count], fade[:, None, None])
    below[count:] = piece[count:]


def _blend(lower: Pixels, upper: Pixels, share: Float32[np.ndarray, "a b 1"]) -> Pixels:
    """Blend two pictures; a share of 1 is the upper one alone."""
    if (share == 1).all():
        return upper
    under = lower.astype(np.float32)
    mixed: Pixels = np.rint(under + (upper - under) * share).astype(np.uint8)
    return mixed
