"""Area averaging: each pixel of the result is the mean of the stored area it covers."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, floor

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

LEVEL_TOLERANCE = 0.005  # a level coarser by so little is sharp enough: sizes are rounded
BLOCK_PX = 2048  # side of what is decoded at once: 4 Mpx, 16 MB in OpenSlide
MAX_STEP = 256.0  # a pixel of the result that covers more is averaged in two stages
AT_ONCE = 2**15  # numbers averaged at once: few enough that they stay in a core's nearest cache
SKEW = 16  # numbers after each row, without which those of a column would share places in a cache


@dataclass(frozen=True)
class Span:
    """One axis of a read: `count` pixels, each covering `step` stored ones, from `start`."""

    start: float
    step: float
    count: int

    @classmethod
    def of(cls, start: float, length: float, wanted: float) -> "Span":
        """Lay about `wanted` pixels over a stretch of a stored level.

        The start is snapped to a whole stored pixel, and the step to a whole number where only
        the rounding of sizes keeps it from one: stored pixels are then used as they are.
        """
        count = max(1, round(wanted))
        step, whole = length / count, round(length / count)
        off = abs(length - whole * count)
        if whole >= 1 and off < min(1.0, LEVEL_TOLERANCE * length):
            step = float(whole)
        return cls(float(round(start)), step, count)

    @property
    def first(self) -> int:
        """The first stored pixel touched."""
        return floor(self.start)

    @property
    def length(self) -> int:
        """How many stored pixels are touched."""
        return max(1, ceil(self.start + self.count * self.step - 1e-6) - self.first)

    @property
    def whole(self) -> bool:
        """Whether pixels are made of whole stored ones."""
        return self.step == int(self.step) and self.start == self.first

    @property
    def edges(self) -> Float[np.ndarray, " _"]:
        """Where the pixels meet, in stored pixels from the first."""
        edges: Float[np.ndarray, " _"] = np.arange(self.count + 1) * self.step
        return np.minimum(edges + (self.start - self.first), float(self.length))

    @property
    def stages(self) -> int:
        """How many parts a pixel is cut into so that each covers `MAX_STEP` at most."""
        return ceil(self.step / MAX_STEP)

    @property
    def _per_block(self) -> int:
        return max(1, int(BLOCK_PX / self.step))

    @property
    def blocks(self) -> int:
        """How many blocks `split` gives."""
        return ceil(self.count / self._per_block)

    def finer(self, parts: int) -> "Span":
        """Cut each pixel into parts."""
        return Span(self.start, self.step / parts, self.count * parts)

    def split(self) -> "Iterator[tuple[int, Span]]":
        """Cut into blocks, each with its position."""
        for at in range(0, self.count, self._per_block):
            count = min(self._per_block, self.count - at)
            yield at, Span(self.start + at * self.step, self.step, count)

    def inside(self, limit: int) -> tuple[int, int]:
        """Give the first stored pixel and the number of them that lie in 0..limit."""
        first = min(max(self.first, 0), limit)
        last = min(max(self.first + self.length, 0), limit)
        return first, last - first


def shrink_whole(
    pixels: UInt8[np.ndarray, "h w 3"], factors: tuple[int, int]
) -> UInt8[np.ndarray, "r c 3"]:
    """Average blocks of `factors` (columns, rows) pixels; the fast way for whole ratios."""
    if factors == (1, 1):
        return pixels.copy()  # those of an array are the caller's own
    return np.array(Image.fromarray(pixels).reduce(factors))


def shrink(
    pixels: UInt8[np.ndarray, "h w 3"],
    rows: Float[np.ndarray, " r1"],
    columns: Float[np.ndarray, " c1"],
) -> UInt8[np.ndarray, "r c 3"]:
    """Average the pixels between fractional edges, a partly covered pixel by its share.

    Args:
        pixels: the stored pixels.
        rows: ascending edges of the result's rows, in rows of `pixels`, evenly spaced.
        columns: likewise.
    """
    height, width, _ = pixels.shape
    by_row = _average(pixels.reshape(height, width * 3), rows)  # r w3
    # Rows are the contiguous axis, so averaging columns is averaging rows, transposed.
    turned = np.ascontiguousarray(by_row.T).reshape(width, -1)  # w 3r
    averaged = _average(turned, columns)  # c 3r
    result = np.rint(averaged).astype(np.uint8).reshape(len(averaged), 3, -1)
    return np.ascontiguousarray(result.transpose(2, 0, 1))  # r c 3


def _average(
    rows: Float[np.ndarray, "n w"] | UInt8[np.ndarray, "n w"], edges: Float[np.ndarray, " m1"]
) -> Float[np.ndarray, "m w"]:
    """Average rows between edges: shares times rows, of a few results at a time."""
    count, width = len(edges) - 1, rows.shape[1]
    averaged = np.empty((count, width + SKEW), dtype=np.float32)[:, :width]
    step = (edges[-1] - edges[0]) / count
    at_once = max(1, int(AT_ONCE / (width * step)))
    for at in range(0, count, at_once):
        between = edges[at : at + at_once + 1]
        touched = np.arange(floor(between[0]), ceil(between[-1]) + 1)
        # A row lies between two edges by what is left of it where it is cut off at both.
        shares = np.diff(touched.clip(between[:-1, None], between[1:, None])) / step
        values = rows[touched[0] : touched[-1]].astype(np.float32, copy=False)
        np.matmul(shares.astype(np.float32), values, out=averaged[at : at + at_once])
    return averaged
