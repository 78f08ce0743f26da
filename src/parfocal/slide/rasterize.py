"""Fill polygons on a grid of pixels."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int64

from parfocal.polygons import ClassPolygon

Edges = Float[np.ndarray, "e 2 2"]  # edge, start and end, (x, y)


def fill_polygons(
    polygons: Sequence[ClassPolygon], shape: tuple[int, int], scale: tuple[float, float]
) -> Bool[np.ndarray, "h w"]:
    """Return which pixels have their center inside a polygon.

    A hole, or the overlap of a ring that crosses itself, is outside (even-odd rule). A pixel inside
    any of several polygons is inside. Time grows with the corners, not with their product with the
    polygons.

    Args:
        polygons: polygons in level-0 pixels.
        shape: height and width of the result.
        scale: pixels of the result per level-0 pixel, horizontally and vertically.
    """
    height, width = shape
    if not polygons:
        return np.zeros(shape, dtype=bool)
    edges, owner = _edges(polygons, scale)
    row, x, owner = _cross_rows(edges, owner, height)
    order = np.lexsort((x, row, owner))
    # In a row, a polygon has an even number of crossings; it lies between the first and the second.
    row, column = row[order], np.clip(np.ceil(x[order] - 0.5), 0, width).astype(np.int64)
    change = np.zeros((height, width + 1), dtype=np.int32)
    np.add.at(change, (row[0::2], column[0::2]), 1)
    np.add.at(change, (row[1::2], column[1::2]), -1)
    filled: Bool[np.ndarray, "h w"] = change.cumsum(axis=1)[:, :width] > 0
    return filled


def _edges(
    polygons: Sequence[ClassPolygon], scale: tuple[float, float]
) -> tuple[Edges, Int64[np.ndarray, " e"]]:
    """Return the edges of all rings, and the index of each edge's polygon."""
    rings, owners = [], []
    for index, polygon in enumerate(polygons):
        for ring in (polygon.outer, *polygon.holes):
            rings.append(np.stack([ring, np.roll(ring, -1, axis=0)], axis=1))
            owners.append(np.full(len(ring), index))
    return np.concatenate(rings) * np.array(scale), np.concatenate(owners)


def _cross_rows(
    edges: Edges, owner: Int64[np.ndarray, " e"], height: int
) -> tuple[Int64[np.ndarray, " c"], Float[np.ndarray, " c"], Int64[np.ndarray, " c"]]:
    """Return row, x and owner of each crossing of an edge with the middle of a row of pixels."""
    bounds = np.ceil(np.sort(edges[:, :, 1], axis=1) - 0.5)
    first, end = np.clip(bounds, 0, height).astype(np.int64).T
    number = end - first
    edge = np.repeat(np.arange(len(edges)), number)
    position = np.arange(len(edge)) - np.repeat(np.cumsum(number) - number, number)
    row = first[edge] + position
    (x0, y0), (x1, y1) = edges[edge].transpose(1, 2, 0)
    x: Float[np.ndarray, " c"] = x0 + (row + 0.5 - y0) * (x1 - x0) / (y1 - y0)
    return row, x, owner[edge]
