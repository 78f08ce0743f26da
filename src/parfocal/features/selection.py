"""The patches of a feature file at some of its magnifications, as they are on the slide itself."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int64

from parfocal.bag import FeatureTable, StoredBag
from parfocal.grid import PatchGrid
from parfocal.grid.ladder import achieved_mpps
from parfocal.slide.resolution import magnification_of, mpp_of

SAME_MPP = 1e-9  # largest relative difference of resolutions that are the same but for rounding


class SelectionError(Exception):
    """Patches of some magnifications that a feature file does not have; the message says why."""


@dataclass(frozen=True)
class Selection:
    """The patches of some magnifications of a feature file.

    Args:
        grid: grid of the patches.
        steps: step of `grid` for each magnification.
        rows: for each magnification, the row in the file of each row of the grid, -1 for patches
            that do not exist; None if all rows are those of the file.
    """

    grid: PatchGrid
    steps: tuple[int, ...]
    rows: tuple[Int64[np.ndarray, " _"], ...] | None = None

    @property
    def valid(self) -> list[Bool[np.ndarray, " _"]]:
        """Whether each patch exists, for each magnification."""
        return [self.grid.valid(step) for step in self.steps]

    def bag(self, tables: Sequence[FeatureTable]) -> StoredBag:
        """Return the bag of these patches.

        Args:
            tables: features of each magnification, lowest first.
        """
        valid = [torch.from_numpy(exists) for exists in self.valid]
        return StoredBag(tables, valid=valid, cells=self.cells)

    def cells(self, index: int, rows: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, "n 2"]:
        """Return (column, row) of patches of one of the magnifications."""
        return self.grid.cells(self.steps[index], rows)


def select_steps(
    stored: PatchGrid, steps: Sequence[int], magnifications: Sequence[float]
) -> Selection:
    """Return the patches that a slide has at some of the stored magnifications.

    Which patches exist depends on the magnifications together, so it is computed again from the
    stored shares of tissue. Features of version 1 have no shares; of these, the patches of the
    lowest stored magnification decide.

    Args:
        stored: grid of the feature file.
        steps: steps to keep, lowest first.
        magnifications: their magnifications, as requested.

    Raises:
        SelectionError: on the slide itself, the patches are read at other resolutions, or exist
            where the file has no features.
    """
    if stored.shares is None or stored.rule is None or list(steps) == list(range(len(stored.mpps))):
        return Selection(stored, tuple(steps))
    mpps = achieved_mpps(
        [mpp_of(magnification) for magnification in magnifications],
        level_mpps=stored.level_mpps,
        slide_mpp=stored.slide_mpp,
    )
    _check_resolutions(mpps, [stored.mpps[step] for step in steps])
    grid = PatchGrid.from_shares(
        [stored.shares[step] for step in steps],
        stored.rule,
        mpps=mpps,
        patch_size=stored.patch_size,
        slide_size=stored.slide_size,
        slide_mpp=stored.slide_mpp,
        level_mpps=stored.level_mpps,
    )
    rows = tuple(_stored_rows(grid, index, stored, step) for index, step in enumerate(steps))
    return Selection(grid, tuple(range(len(steps))), rows)


def _check_resolutions(alone: Sequence[float], stored: Sequence[float]) -> None:
    """Refuse resolutions that depend on a magnification that is left out."""
    for mpp, stored_mpp in zip(alone, stored, strict=True):
        if abs(mpp / stored_mpp - 1) > SAME_MPP:
            raise SelectionError(
                f"{magnification_of(stored_mpp):g}x was read at {stored_mpp:.6g} µm/px, to fit a "
                f"level of the slide near the highest stored magnification; without that one, it "
                f"is read at {mpp:.6g} µm/px"
            )


def _stored_rows(
    grid: PatchGrid, index: int, stored: PatchGrid, step: int
) -> Int64[np.ndarray, " n"]:
    """Return the row in the file of each row of a grid; -1 for patches that do not exist."""
    rows = _find_cells(
        grid.cells(index, np.arange(grid.counts[index])),
        stored.cells(step, np.arange(stored.counts[step])),
    )
    encoded = (rows >= 0) & stored.valid(step)[rows]
    missing = int(np.count_nonzero(grid.valid(index) & ~encoded))
    if missing:
        raise SelectionError(
            f"{missing} patches at {magnification_of(grid.mpps[index]):g}x were not encoded, since "
            "they do not exist together with the other magnifications"
        )
    return np.where(grid.valid(index), rows, -1)


def _find_cells(
    wanted: Int64[np.ndarray, "n 2"], cells: Int64[np.ndarray, "m 2"]
) -> Int64[np.ndarray, " n"]:
    """Return the position of each wanted cell among others; -1 if it is not there."""
    width = 1 + max(wanted[:, 0].max(initial=0), cells[:, 0].max(initial=0))
    keys = cells[:, 1] * width + cells[:, 0]
    wanted_keys = wanted[:, 1] * width + wanted[:, 0]
    order = np.argsort(keys)
    found = np.minimum(np.searchsorted(keys, wanted_keys, sorter=order), len(keys) - 1)
    positions = order[found]
    return np.where(keys[positions] == wanted_keys, positions, -1)
