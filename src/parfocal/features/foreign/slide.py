"""The features of one slide by another tool, as a bag of nested patches."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float, Int64

from parfocal.features.errors import StoreError
from parfocal.features.foreign.nesting import NestedStep, NestingError, PlacedPatches, nest
from parfocal.features.foreign.patches import ScanFacts, ToolPatches
from parfocal.features.rows import StoredFeatures
from parfocal.features.selection import Selection
from parfocal.grid import PatchGrid, PatchRule
from parfocal.grid.ladder import whole_ratio

# Every stored patch has a share of 1, every other square of the lattice one of 0.
STORED = PatchRule(min_tissue=0.5, children="tissue", roots="share")
ADVICE = {
    "TRIDENT": "Extract all magnifications again with TRIDENT: one --patch_size, --overlap 0, and "
    "values of --mag that are whole multiples of each other.",
    "CLAM": "CLAM begins a grid at each piece of tissue, so magnifications rarely nest: extract "
    "them with TRIDENT or with `parfocal extract`, or use a model of one magnification.",
}
OTHER_ADVICE = (
    "Extract the magnifications with TRIDENT or with `parfocal extract`, or use a model of one "
    "magnification."
)


class ForeignSlide:
    """The features of one slide by another tool.

    Args:
        levels: patches of each magnification, by magnification.
        tool: the tool.
        scan: what the slide file records; None if it is not available.
    """

    def __init__(
        self, levels: Mapping[float, ToolPatches], tool: str, scan: ScanFacts | None
    ) -> None:
        self._levels, self._tool, self._scan = levels, tool, scan
        self._selections: dict[tuple[float, ...], Selection] = {}

    @property
    def placed(self) -> bool:
        """Whether the places of the patches on the slide are known."""
        return all(level.unit == "px" for level in self._levels.values())

    def select(self, magnifications: Sequence[float]) -> Selection:
        """Return the patches of some magnifications, nested by their places.

        Args:
            magnifications: magnifications of `levels`, lowest first.

        Raises:
            StoreError: the patches do not nest.
        """
        key = tuple(magnifications)
        if key not in self._selections:
            self._selections[key] = self._nest(key)
        return self._selections[key]

    def tables(
        self, magnifications: Sequence[float], *, device: torch.device | str = "cpu"
    ) -> tuple[StoredFeatures, ...]:
        """Return the features of the patches of `select`, which are read when indexed.

        Args:
            magnifications: magnifications of `levels`, lowest first.
            device: device of the features.

        Raises:
            StoreError: the patches do not nest.
        """
        rows = self.select(magnifications).rows
        return tuple(
            StoredFeatures(
                self._levels[magnification].rows,
                device=torch.device(device),
                stored_rows=None if rows is None else rows[index],
            )
            for index, magnification in enumerate(magnifications)
        )

    def _nest(self, magnifications: tuple[float, ...]) -> Selection:
        levels = [self._levels[magnification] for magnification in magnifications]
        names = [f"{magnification:g}x" for magnification in magnifications]
        ratios = [whole_ratio(high, low) for low, high in pairwise(magnifications)]
        placed = [
            PlacedPatches(level.corners, level.side, name)
            for level, name in zip(levels, names, strict=True)
        ]
        try:
            if len(levels) > 1:
                _refuse_overlap(levels, names)
            steps = nest(placed, [ratio or 1 for ratio in ratios])
        except NestingError as error:
            raise StoreError(
                f"{levels[-1].rows.path}: {error}. {ADVICE.get(self._tool, OTHER_ADVICE)}"
            ) from None
        grid = self._grid(levels, steps)
        rows = tuple(step.stored for step in steps) if len(levels) > 1 else None
        return Selection(grid, tuple(range(len(levels))), rows)

    def _grid(self, levels: Sequence[ToolPatches], steps: Sequence[NestedStep]) -> PatchGrid:
        """Return the patches with their places."""
        highest = levels[-1]
        slide_mpp = self._slide_mpp(highest)
        size = self._scan.size if self._scan is not None else highest.slide_size
        if size is None:
            reach = (highest.corners.max(axis=0) + highest.side).tolist()
            size = math.ceil(reach[0]), math.ceil(reach[1])
        grid = PatchGrid(
            mpps=tuple(level.side * slide_mpp / level.patch_size for level in levels),
            patch_size=highest.patch_size,
            slide_size=size,
            slide_mpp=slide_mpp,
            roots=_cells(levels[0].corners, levels[0].side),
            sharpest_patches=len(highest.corners),
            exists=tuple(step.stored >= 0 for step in steps),
            corners=tuple(step.corners for step in steps),
        )
        return grid if len(levels) == 1 else _with_shares(grid, levels, steps)

    def _slide_mpp(self, highest: ToolPatches) -> float:
        """Return µm per unit of the corners: that of the scan, or else the intended one."""
        if highest.unit == "um":
            return 1.0
        if self._scan is not None and highest.unit == "px":
            return self._scan.mpp
        assert highest.mpp is not None
        return highest.mpp * highest.patch_size / highest.side


def _with_shares(
    grid: PatchGrid, levels: Sequence[ToolPatches], steps: Sequence[NestedStep]
) -> PatchGrid:
    """Add which squares have a stored patch, so that those without a parent count as lost."""
    shares = []
    for index, (level, step) in enumerate(zip(levels, steps, strict=True)):
        existing = grid.cells(index, np.flatnonzero(step.stored >= 0))
        orphans = _cells(level.corners[step.orphans], level.side)
        column, row = np.concatenate([existing, orphans]).clip(0).T
        squares = np.zeros((row.max() + 1, column.max() + 1))
        squares[row, column] = 1
        shares.append(squares)
    return replace(grid, shares=tuple(shares), rule=STORED)


def _refuse_overlap(levels: Sequence[ToolPatches], names: Sequence[str]) -> None:
    for level, name in zip(levels, names, strict=True):
        if level.overlap:
            raise NestingError(
                f"{name} patches overlap by {level.overlap:g} pixels, and patches nest only "
                "without overlap"
            )


def _cells(corners: Float[np.ndarray, "n 2"], side: float) -> Int64[np.ndarray, "n 2"]:
    """Return (column, row) of the nearest square of a lattice."""
    return np.rint(corners / side).astype(np.int64)
