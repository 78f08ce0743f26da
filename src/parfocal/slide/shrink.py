"""Area averaging: each pixel of the result is the mean of the stored area it covers."""

from math import ceil

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image


def shrink_whole(
    pixels: UInt8[np.ndarray, "h w 3"], factors: tuple[int, int]
) -> UInt8[np.ndarray, "r c 3"]:
    """Average blocks of `factors` (columns, rows) pixels; the fast way for whole ratios."""
    if factors == (1, 1):
        return pixels
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
    turned = by_row.reshape(-1, width, 3).transpose(1, 0, 2).reshape(width, -1)  # w r3
    averaged = _average(turned, columns).reshape(len(columns) - 1, -1, 3)  # c r 3
    result: UInt8[np.ndarray, "r c 3"] = np.rint(averaged.transpose(1, 0, 2)).astype(np.uint8)
    return result


def _average(
    rows: Float[np.ndarray, "n w"] | UInt8[np.ndarray, "n w"], edges: Float[np.ndarray, " m1"]
) -> Float[np.ndarray, "m w"]:
    """Average rows between edges: sum, over the few rows an interval touches, share times row."""
    starts, ends = edges[:-1], edges[1:]
    first = starts.astype(np.int64)
    touched = ceil(np.max(ends - first))
    total = np.zeros((len(first), rows.shape[1]), dtype=np.float32)
    for row in first + np.arange(touched)[:, None]:
        share = (np.minimum(ends, row + 1) - np.maximum(starts, row)).clip(0) / (ends - starts)
        total += rows[np.minimum(row, len(rows) - 1)] * share.astype(np.float32)[:, None]
    return total
