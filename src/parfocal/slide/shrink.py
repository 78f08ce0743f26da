"""Area averaging: each output pixel is the mean of the stored area that it covers."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, floor

import numpy as np
from jaxtyping import Float, Int64, UInt8
from PIL import Image

LEVEL_TOLERANCE = 0.005  # a level coarser by this fraction is sharp enough: sizes are rounded
BLOCK_PX = 2048  # side of a block that is decoded at once: 4 Mpx, 16 MB in OpenSlide
MAX_STEP = 256.0  # an output pixel that covers more stored pixels is averaged in two stages
BATCH_VALUES = 2**15  # values averaged at once, few enough to stay in a core's nearest cache
ROW_PADDING = 16  # values after each row, so that a column's values do not share cache lines
# Averages closer than this to a half are computed again in double precision, since the last digits
# of single precision depend on how a region is divided. Single precision is off by 1e-4 at most.
HALF_TOLERANCE = 5e-4
GATHERED_VALUES = 2**22  # stored values gathered at once to compute averages again


@dataclass(frozen=True)
class Span:
    """One axis of a read, in pixels of a stored level.

    Args:
        start: where the first output pixel begins.
        step: stored pixels that an output pixel covers.
        count: number of output pixels.
    """

    start: float
    step: float
    count: int

    @classmethod
    def fit(cls, start: float, length: float, count: float) -> "Span":
        """Divide a part of a stored level into about `count` output pixels.

        The start is rounded to a whole stored pixel. The step is rounded to a whole number if only
        the rounding of sizes makes it fractional; stored pixels are then used as they are.
        """
        rounded = max(1, round(count))
        step, whole_step = length / rounded, round(length / rounded)
        difference = abs(length - whole_step * rounded)
        if whole_step >= 1 and difference < min(1.0, LEVEL_TOLERANCE * length):
            step = float(whole_step)
        return cls(float(round(start)), step, rounded)

    @property
    def first(self) -> int:
        """Index of the first stored pixel that is covered."""
        return floor(self.start)

    @property
    def length(self) -> int:
        """Number of stored pixels that are covered, wholly or in part."""
        return max(1, ceil(self.start + self.count * self.step - 1e-6) - self.first)

    @property
    def is_whole(self) -> bool:
        """Whether every output pixel covers whole stored pixels."""
        return self.step == int(self.step) and self.start == self.first

    @property
    def edges(self) -> Float[np.ndarray, " _"]:
        """Edges of the output pixels, in stored pixels from `first`."""
        edges: Float[np.ndarray, " _"] = np.arange(self.count + 1) * self.step
        return np.minimum(edges + (self.start - self.first), float(self.length))

    @property
    def stages(self) -> int:
        """Number of parts of an output pixel, so that each part covers at most `MAX_STEP`."""
        return ceil(self.step / MAX_STEP)

    @property
    def _block_count(self) -> int:
        """Number of output pixels in a block."""
        return max(1, int(BLOCK_PX / self.step))

    @property
    def blocks(self) -> int:
        """Number of blocks that `split` returns."""
        return ceil(self.count / self._block_count)

    def divide(self, parts: int) -> "Span":
        """Divide each output pixel into parts."""
        return Span(self.start, self.step / parts, self.count * parts)

    def split(self) -> "Iterator[tuple[int, Span]]":
        """Split into blocks, each with the index of its first output pixel."""
        for index in range(0, self.count, self._block_count):
            count = min(self._block_count, self.count - index)
            yield index, Span(self.start + index * self.step, self.step, count)

    def clip(self, limit: int) -> tuple[int, int]:
        """Return the first stored pixel that lies in 0..limit, and the number of those that do."""
        first = min(max(self.first, 0), limit)
        last = min(max(self.first + self.length, 0), limit)
        return first, last - first


def shrink_whole(
    pixels: UInt8[np.ndarray, "h w 3"], factors: tuple[int, int]
) -> UInt8[np.ndarray, "r c 3"]:
    """Average blocks of `factors` (columns, rows) pixels; fast, for whole factors only."""
    if factors == (1, 1):
        return pixels.copy()  # the pixels may belong to the caller's own array
    return np.array(Image.fromarray(pixels).reduce(factors))


def shrink(
    pixels: UInt8[np.ndarray, "h w 3"],
    rows: Float[np.ndarray, " r1"],
    columns: Float[np.ndarray, " c1"],
) -> UInt8[np.ndarray, "r c 3"]:
    """Average pixels between fractional edges; a partly covered pixel counts by its share.

    Args:
        pixels: stored pixels.
        rows: edges of the output's rows in rows of `pixels`, ascending and evenly spaced.
        columns: edges of the output's columns in columns of `pixels`, ascending and evenly spaced.
    """
    height, width, _ = pixels.shape
    by_row = _average_rows(pixels.reshape(height, width * 3), rows)  # r w3
    # Rows are the contiguous axis, so columns are averaged as rows of the transposed array.
    transposed = np.ascontiguousarray(by_row.T).reshape(width, -1)  # w 3r
    averaged = _average_rows(transposed, columns)  # c 3r
    averaged += 0.5 - HALF_TOLERANCE
    lower = averaged.astype(np.uint8)
    averaged += 2 * HALF_TOLERANCE
    halves = np.divmod(np.flatnonzero(averaged.astype(np.uint8) != lower), lower.shape[1])
    result = np.ascontiguousarray(
        lower.reshape(len(averaged), 3, -1).transpose(2, 0, 1)  # r c 3
    )
    _round_again(result, pixels, (rows, columns), halves)
    return result


def _round_again(
    result: UInt8[np.ndarray, "r c 3"],
    pixels: UInt8[np.ndarray, "h w 3"],
    edges: tuple[Float[np.ndarray, " r1"], Float[np.ndarray, " c1"]],
    halves: tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]],
) -> None:
    """Compute results near a half exactly, so that they do not depend on how a region is divided.

    Args:
        result: rounded averages, changed in place.
        pixels: stored pixels.
        edges: edges of the rows and of the columns.
        halves: column of each such result; and its channel and row, counted together.
    """
    columns, (channels, rows) = halves[0], np.divmod(halves[1], len(result))
    spans = [_stored_span(axis) for axis in edges]
    batch = max(1, GATHERED_VALUES // (spans[0] * spans[1]))
    for start in range(0, len(columns), batch):
        part = slice(start, start + batch)
        row_index, row_share = _gather(edges[0], rows[part], spans[0], pixels.shape[0])
        column_index, column_share = _gather(edges[1], columns[part], spans[1], pixels.shape[1])
        channel = channels[part, None, None]
        values = pixels[row_index[:, :, None], column_index[:, None, :], channel]
        exact = (values * row_share[:, :, None] * column_share[:, None, :]).sum(axis=(1, 2))
        # Edges differ in their last digits too; a value that is a half exactly stays one.
        result[rows[part], columns[part], channels[part]] = np.rint(np.round(exact, 9))


def _stored_span(edges: Float[np.ndarray, " m1"]) -> int:
    """Return the largest number of stored pixels between two neighboring edges."""
    step: float = (edges[-1] - edges[0]) / (len(edges) - 1)
    return ceil(step) + 1


def _gather(
    edges: Float[np.ndarray, " m1"], indices: Int64[np.ndarray, " n"], span: int, length: int
) -> tuple[Int64[np.ndarray, "n k"], Float[np.ndarray, "n k"]]:
    """Return the stored pixels between pairs of edges, and the share of each in the average."""
    first, last = edges[indices, None], edges[indices + 1, None]
    stored = np.floor(first).astype(np.int64) + np.arange(span)
    shares = np.minimum(stored + 1, last) - np.maximum(stored, first)
    return stored.clip(0, length - 1), shares.clip(0) / (last - first)


def _average_rows(
    rows: Float[np.ndarray, "n w"] | UInt8[np.ndarray, "n w"], edges: Float[np.ndarray, " m1"]
) -> Float[np.ndarray, "m w"]:
    """Average rows between edges, as products of shares and rows, a few results at a time."""
    count, width = len(edges) - 1, rows.shape[1]
    averaged = np.empty((count, width + ROW_PADDING), dtype=np.float32)[:, :width]
    step = (edges[-1] - edges[0]) / count
    batch = max(1, int(BATCH_VALUES / (width * step)))
    for start in range(0, count, batch):
        batch_edges = edges[start : start + batch + 1]
        covered = np.arange(floor(batch_edges[0]), ceil(batch_edges[-1]) + 1)
        # A row's share between two edges is what remains of it after clipping at both.
        shares = np.diff(covered.clip(batch_edges[:-1, None], batch_edges[1:, None])) / step
        values = rows[covered[0] : covered[-1]].astype(np.float32, copy=False)
        np.matmul(shares.astype(np.float32), values, out=averaged[start : start + batch])
    return averaged
