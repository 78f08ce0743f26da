"""Pixels without end from a few textures: laid side by side, turned about, their seams blended."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, UInt8

from parfocal.slide.synthetic.layout import Layout

Squares = UInt8[np.ndarray, "n s s 3"]
Pixels = UInt8[np.ndarray, "h w 3"]

TABLE = (61, 67)  # cells after which the choice of textures repeats


@dataclass(frozen=True)
class Textures:
    """Squares of texture, as many of each kind as one likes; all of the same side.

    Args:
        plain: tissue that no one looks at twice.
        region: what catches the eye at low magnification, and is harmless.
        lesion: what a region with a lesion shows. Where there are as many as of `region`, the
            same square of both stands at the same place.
        glass: color where there is no tissue.
    """

    plain: UInt8[np.ndarray, "n s s 3"]
    region: UInt8[np.ndarray, "m s s 3"]
    lesion: UInt8[np.ndarray, "l s s 3"]
    glass: UInt8[np.ndarray, " 3"]


@dataclass(frozen=True)
class Span:
    """Where a cell of the mosaic and a tile overlap, along one axis.

    Args:
        cell: its number.
        tile: the pixels of the tile.
        texture: the pixels of the cell's texture.
        fade: weight of the first of them over what the cell before has there.
    """

    cell: int
    tile: slice
    texture: slice
    fade: Float32[np.ndarray, " f"]


class Mosaic:
    """One slide's pixels, made when asked for.

    Args:
        layout: where things lie.
        textures: what they look like.
        rng: chooses which square of texture stands where, and how it is turned.
        overlap: pixels over which neighbors are blended.
    """

    def __init__(
        self, layout: Layout, textures: Textures, rng: np.random.Generator, *, overlap: int
    ) -> None:
        self._layout, self._textures, self._overlap = layout, textures, overlap
        self._choice = rng.integers(2**31, size=TABLE)
        self._turn = rng.integers(8, size=TABLE)

    def tile(self, x: int, y: int, side: int) -> Pixels:
        """Give the pixels of a square whose top-left pixel is (x, y)."""
        masks = self._layout.masks(x, y, side)
        glass = np.broadcast_to(self._textures.glass, (side, side, 3))
        if masks.tissue is None or not masks.tissue.any():
            return glass
        pixels = self._window(self._textures.plain, x, y, side)
        layers = (
            (self._textures.region, masks.regions),
            (self._textures.lesion, masks.lesions),
        )
        for kind, mask in layers:
            if mask is not None:
                pixels = _blend(pixels, self._window(kind, x, y, side), mask[..., None])
        return _blend(glass, pixels, masks.tissue[..., None])

    def _window(self, kind: Squares, x: int, y: int, side: int) -> Pixels:
        """Give a window onto the endless mosaic of one kind of texture."""
        pixels = np.empty((side, side, 3), dtype=np.uint8)
        for down in self._spans(y, side, kind.shape[1]):
            rows = pixels[down.tile].copy()
            for across in self._spans(x, side, kind.shape[1]):
                texture = self._texture(kind, down.cell, across.cell)
                piece = texture[down.texture, across.texture].swapaxes(0, 1)
                _lay(rows.swapaxes(0, 1)[across.tile], piece, across.fade)
            _lay(pixels[down.tile], rows, down.fade)
        return pixels

    def _texture(self, kind: Squares, row: int, column: int) -> Pixels:
        """Choose the texture of a cell, and mirror or rotate it."""
        place = (row % TABLE[0], column % TABLE[1])
        texture, turn = kind[self._choice[place] % len(kind)], int(self._turn[place])
        turned = texture.swapaxes(0, 1) if turn & 4 else texture
        down, across = (-1 if turn & 2 else 1), (-1 if turn & 1 else 1)
        chosen: Pixels = turned[::down, ::across]
        return chosen

    def _spans(self, start: int, length: int, side: int) -> Iterator[Span]:
        """Give the cells that touch `length` pixels from `start` along an axis."""
        pitch = side - self._overlap
        for cell in range((start - self._overlap) // pitch, (start + length - 1) // pitch + 1):
            first = max(start, cell * pitch)
            last = min(start + length, cell * pitch + side)
            if first < last:
                at = np.arange(first, last, dtype=np.float32) - cell * pitch
                fade = (at[at < self._overlap] + 0.5) / self._overlap
                tile = slice(first - start, last - start)
                yield Span(cell, tile, slice(first - cell * pitch, last - cell * pitch), fade)


def _lay(below: Pixels, piece: Pixels, fade: Float32[np.ndarray, " f"]) -> None:
    """Lay a piece over what is there, fading in over the first rows."""
    count = len(fade)
    below[:count] = _blend(below[:count], piece[:count], fade[:, None, None])
    below[count:] = piece[count:]


def _blend(lower: Pixels, upper: Pixels, share: Float32[np.ndarray, "a b 1"]) -> Pixels:
    """Mix two pictures; a share of 1 is all the upper one."""
    if (share == 1).all():
        return upper
    under = lower.astype(np.float32)
    mixed: Pixels = np.rint(under + (upper - under) * share).astype(np.uint8)
    return mixed
