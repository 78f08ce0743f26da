"""The tissue of a slide that a model can reach, and the tissue that it cannot."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float

from parfocal.grid.rule import ANY_TISSUE
from parfocal.slide.tissue import Tissue

# Squares of a lattice that lie side by side: (row, first column, number).
Run = tuple[int, int, int]


@dataclass(frozen=True)
class Squares:
    """The squares with tissue on the lattice of a slide's highest magnification.

    Args:
        side: side of a square in level-0 pixels; the lattice begins at the corner of the scan.
        reachable: squares that a model can reach.
        out_of_reach: squares with enough tissue that no model can reach.
    """

    side: float
    reachable: tuple[Run, ...]
    out_of_reach: tuple[Run, ...]


@dataclass(frozen=True)
class Reach:
    """The share of a slide's tissue that a model cannot reach.

    Args:
        unreachable: share of the tissue in patches that pass the tissue test at the highest
            magnification but do not exist, because one of their ancestors does not; 0
            with the rule "descendants".
        below_min_tissue: share of the tissue in patches that fail the tissue test at the highest
            magnification, and so do not exist.
        min_tissue_met: whether a patch has the smallest share of tissue; if False, all patches
            with any tissue are kept.
        squares: where the tissue is.
    """

    unreachable: float
    below_min_tissue: float
    min_tissue_met: bool
    squares: Squares


def measure_reach(
    share: Float[np.ndarray, "h w"],
    *,
    passing: Bool[np.ndarray, "h w"],
    exists: Bool[np.ndarray, "h w"],
    min_tissue_met: bool,
    side: float,
) -> Reach:
    """Measure which part of the tissue no patch covers.

    Args:
        share: share of tissue in all patches of the highest magnification.
        passing: whether they pass the tissue test.
        exists: whether they exist.
        min_tissue_met: whether a patch has the smallest share of tissue.
        side: side of a patch in level-0 pixels.
    """
    lost = passing & ~exists
    return Reach(
        unreachable=_part(share, lost),
        below_min_tissue=_part(share, ~passing & ~exists),
        min_tissue_met=min_tissue_met,
        squares=Squares(side, runs_of(exists), runs_of(lost)),
    )


def reach_of_boxes(tissue: Tissue, boxes: Float[np.ndarray, "n 4"], side: float) -> Reach:
    """Measure which part of the tissue lies in none of some boxes.

    For models whose patches lie on no lattice. A square of the lattice is out of reach if more than
    half of its tissue lies in no box.

    Args:
        tissue: tissue of the slide.
        boxes: x, y, width and height of all patches that a model can read, in level-0 pixels.
        side: side of the squares of the lattice, in level-0 pixels.
    """
    lost = replace(tissue, mask=tissue.mask & ~_covered(tissue, boxes))
    share = tissue_shares(tissue, side)
    lost_share = tissue_shares(lost, side)
    has_tissue, is_lost = share > ANY_TISSUE, lost_share > share / 2
    return Reach(
        unreachable=float(lost.mask.sum() / (tissue.mask.sum() or 1)),
        below_min_tissue=0.0,
        min_tissue_met=True,
        squares=Squares(side, runs_of(has_tissue & ~is_lost), runs_of(has_tissue & is_lost)),
    )


def tissue_shares(tissue: Tissue, side: float) -> Float[np.ndarray, "h w"]:
    """Return the share of tissue in every square of a lattice over a slide.

    Args:
        tissue: tissue of the slide.
        side: side of a square in level-0 pixels.
    """
    width, height = tissue.slide_size
    columns, rows = max(1, int(np.ceil(width / side))), max(1, int(np.ceil(height / side)))
    row, column = np.divmod(np.arange(columns * rows), columns)
    return tissue.fraction(column * side, row * side, side).reshape(rows, columns)


def _covered(tissue: Tissue, boxes: Float[np.ndarray, "n 4"]) -> Bool[np.ndarray, "h w"]:
    """Return which pixels of a tissue mask a box touches."""
    height, width = tissue.mask.shape
    scale = np.array([width / tissue.slide_size[0], height / tissue.slide_size[1]])
    start = np.floor(boxes[:, :2] * scale).astype(int).clip(0, (width, height))
    end = np.ceil((boxes[:, :2] + boxes[:, 2:]) * scale).astype(int).clip(0, (width, height))
    corners = np.zeros((height + 1, width + 1), dtype=np.int64)
    for x, y, sign in ((start, start, 1), (end, start, -1), (start, end, -1), (end, end, 1)):
        np.add.at(corners, (y[:, 1], x[:, 0]), sign)
    covered: Bool[np.ndarray, "h w"] = corners.cumsum(0).cumsum(1)[:height, :width] > 0
    return covered


def runs_of(lattice: Bool[np.ndarray, "h w"]) -> tuple[Run, ...]:
    """Return the runs of squares that are True, row by row.

    >>> runs_of(np.array([[True, True, False, True]]))
    ((0, 0, 2), (0, 3, 1))
    """
    edges = np.diff(np.pad(lattice, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, starts = np.nonzero(edges == 1)
    ends = np.nonzero(edges == -1)[1]
    runs = zip(rows.tolist(), starts.tolist(), (ends - starts).tolist(), strict=True)
    return tuple(runs)


def _part(share: Float[np.ndarray, "h w"], squares: Bool[np.ndarray, "h w"]) -> float:
    """Return the part of the tissue that lies in some squares."""
    total = float(share.sum())
    return float(share[squares].sum()) / total if total else 0.0
