"""Nest patches of several magnifications by their places, where each was extracted by itself.

A child belongs to the parent that its center lies in. The tissue was found for each magnification
by itself, so a parent may lack children, and a child a parent: children without a parent cannot be
reached by zooming and are left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np
from jaxtyping import Float, Int64

from parfocal.grid.ladder import child_order

MAX_DRIFT = 0.1  # of the side of a child


class NestingError(Exception):
    """Patches that do not nest; the message says why, without the file."""


@dataclass(frozen=True)
class PlacedPatches:
    """The patches of one magnification.

    Args:
        corners: (x, y) of the top-left corner of each patch.
        side: side of a patch, in the unit of `corners`.
        name: magnification, for messages.
    """

    corners: Float[np.ndarray, "n 2"]
    side: float
    name: str


@dataclass(frozen=True)
class NestedStep:
    """The rows of one magnification, in nested order: those of one parent follow each other.

    Args:
        stored: the stored patch of each row; -1 for a place without one.
        corners: (x, y) of the top-left corner of each row; where there is no patch, of its place.
        orphans: stored patches without a parent.
    """

    stored: Int64[np.ndarray, " m"]
    corners: Float[np.ndarray, "m 2"]
    orphans: Int64[np.ndarray, " o"]


def nest(levels: Sequence[PlacedPatches], ratios: Sequence[int]) -> tuple[NestedStep, ...]:
    """Assign the patches of each magnification to those of the one below.

    Args:
        levels: patches of each magnification, lowest first.
        ratios: number of children along a side of a patch, for each magnification but the highest.

    Raises:
        NestingError: the patches do not nest.
    """
    first = levels[0]
    every = np.arange(len(first.corners))
    steps = [NestedStep(every, first.corners, every[:0])]
    for (parents, children), ratio in zip(pairwise(levels), ratios, strict=True):
        steps.append(_assign(steps[-1], parents, children, ratio))
    return tuple(steps)


def _assign(
    step: NestedStep, parents: PlacedPatches, children: PlacedPatches, ratio: int
) -> NestedStep:
    """Assign children to the existing patches of one step."""
    side = parents.side / ratio
    names = f"{children.name} patches have a side of {children.side:g} level-0 pixels"
    if abs(children.side / side - 1) > MAX_DRIFT:
        raise NestingError(
            f"{names}, and {ratio} x {ratio} of them fill a {parents.name} patch only if it is "
            f"{side:g}"
        )
    existing = np.flatnonzero(step.stored >= 0)
    _refuse_overlap(step.corners[existing], parents)
    centers = children.corners + children.side / 2
    found = _containing(step.corners[existing], parents.side, centers)
    owned = np.flatnonzero(found >= 0)
    if not len(owned):
        raise NestingError(
            f"no {children.name} patch lies in a {parents.name} patch; the two are of different "
            "slides or tissue"
        )
    row = existing[found[owned]]
    inside = (centers[owned] - step.corners[row]) / side
    slot = np.clip(np.floor(inside), 0, ratio - 1).astype(np.int64)
    drift = np.abs(children.corners[owned] - (step.corners[row] + slot * side)).max() / side
    if drift > MAX_DRIFT:
        raise NestingError(
            f"a {children.name} patch lies {drift:.1%} of its side away from its place inside a "
            f"{parents.name} patch, and {MAX_DRIFT:.0%} is the most"
        )
    return _fill(step, row, slot, owned, children, side=side, ratio=ratio)


def _fill(
    step: NestedStep,
    row: Int64[np.ndarray, " m"],
    slot: Int64[np.ndarray, "m 2"],
    owned: Int64[np.ndarray, " m"],
    children: PlacedPatches,
    *,
    side: float,
    ratio: int,
) -> NestedStep:
    """Put children into the places of their parents."""
    order = child_order(ratio)
    position = np.zeros((ratio, ratio), dtype=np.int64)
    position[order[:, 0], order[:, 1]] = np.arange(ratio**2)
    places = row * ratio**2 + position[slot[:, 0], slot[:, 1]]
    if len(np.unique(places)) < len(places):
        raise NestingError(
            f"several {children.name} patches lie at one place inside their parent: they overlap"
        )
    corners = (step.corners[:, None] + order * side).reshape(-1, 2)
    stored = np.full(len(corners), -1, dtype=np.int64)
    stored[places], corners[places] = owned, children.corners[owned]
    orphans = np.setdiff1d(np.arange(len(children.corners)), owned)
    return NestedStep(stored, corners, orphans)


def _containing(
    corners: Float[np.ndarray, "p 2"], side: float, points: Float[np.ndarray, "n 2"]
) -> Int64[np.ndarray, " n"]:
    """Return the square that each point lies in; -1 if it lies in none.

    Args:
        corners: top-left corners of squares that overlap by `MAX_DRIFT` at most.
        side: their side.
        points: (x, y) of the points.
    """
    # On a lattice that is this much finer, every square begins in a cell of its own, and one that
    # contains a point begins in the point's cell or in the two before it, along either axis.
    cell = side * (1 - MAX_DRIFT)
    cells = np.floor(corners / cell).astype(np.int64)
    origin = cells.min(axis=0) - 2
    cells, wanted = cells - origin, np.floor(points / cell).astype(np.int64) - origin
    width = 1 + max(cells[:, 0].max(), wanted[:, 0].max())
    keys = cells[:, 1] * width + cells[:, 0]
    order = np.argsort(keys)
    found = np.full(len(points), -1, dtype=np.int64)
    for shift in product(range(3), repeat=2):
        begin = wanted - shift
        key = begin[:, 1] * width + begin[:, 0]
        place = np.minimum(np.searchsorted(keys, key, sorter=order), len(keys) - 1)
        candidate = order[place]
        offset = points - corners[candidate]
        inside = (keys[candidate] == key) & (begin >= 0).all(axis=1)
        inside &= ((offset >= 0) & (offset < side)).all(axis=1)
        found[inside] = candidate[inside]
    return found


def _refuse_overlap(corners: Float[np.ndarray, "n 2"], level: PlacedPatches) -> None:
    """Refuse squares that begin in one cell of the lattice of `_containing`."""
    cells = np.floor(corners / (level.side * (1 - MAX_DRIFT)))
    if len(np.unique(cells, axis=0)) < len(cells):
        raise NestingError(f"{level.name} patches overlap each other")
