"""Nested square patches of a slide at each magnification.

The patches of the lowest magnification tile the slide from its top-left corner, and every patch is
divided into whole children at the next magnification. A patch exists if one of its descendants at
the highest magnification has enough tissue, so that zooming can reach all of these.

Source: the preprocessing of ZoomMIL (Thandiackal, Chen et al., ECCV 2022).
Departs: the grid starts at the scan's corner, not at a centered white margin, so that patches align
    with the tiles of the file; any whole ratio between magnifications. The authors keep a patch of
    the lowest magnification by its own share of tissue, `roots="share"`, and every descendant,
    `children="all"`.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int64

from parfocal.grid.errors import too_small_error
from parfocal.grid.ladder import achieved_mpps, child_order, sort_mpps
from parfocal.grid.picture import grid_png
from parfocal.grid.reach import Reach, measure_reach, tissue_shares
from parfocal.grid.rule import Children, PatchRule, Roots, existing_ancestors
from parfocal.slide.slide import Box
from parfocal.slide.tissue import Tissue


@dataclass(frozen=True)
class PatchGrid:
    """Nested square patches over the tissue of one slide.

    A step is the index of a magnification, 0 for the lowest. The rows of a step are in nested
    order: the children of row i are rows i*c to (i+1)*c-1 of the next step.

    Args:
        mpps: achieved microns per pixel, coarse to fine.
        patch_size: side of a patch in pixels, the same at every magnification.
        slide_size: width and height of the slide, in level-0 pixels.
        slide_mpp: microns per level-0 pixel.
        roots: (column, row) of the patches kept at the lowest magnification.
        sharpest_patches: number of patches that pass the tissue test at the highest magnification,
            which exhaustive processing would encode.
        exists: per step, whether each patch exists; None if every patch on the scan does.
        shares: per step, the share of tissue in every square of the lattice, kept or not; None if
            unknown, as in feature files of version 1.
        rule: rule by which patches exist; None if `shares` is.
        level_mpps: microns per pixel of each level of the slide file; empty if unknown.
        corners: per step, (x, y) of the top-left corner of each patch, in level-0 pixels, for
            patches that another tool has laid out; `cells` are then the nearest of the lattice.
            None if the patches lie on the lattice.
    """

    mpps: tuple[float, ...]
    patch_size: int
    slide_size: tuple[int, int]
    slide_mpp: float
    roots: Int64[np.ndarray, "n 2"]
    sharpest_patches: int
    exists: tuple[Bool[np.ndarray, " _"], ...] | None = None
    shares: tuple[Float[np.ndarray, "_ _"], ...] | None = None
    rule: PatchRule | None = None
    level_mpps: tuple[float, ...] = ()
    corners: tuple[Float[np.ndarray, "_ 2"], ...] | None = None

    @classmethod
    def over(
        cls,
        tissue: Tissue,
        mpps: Sequence[float],
        patch_size: int = 256,
        *,
        min_tissue: float = 0.1,
        children: Children = "tissue",
        roots: Roots = "descendants",
    ) -> "PatchGrid":
        """Return the grid over a slide's tissue.

        If the file stores a level within 5% of the sharpest mpp, all mpps are scaled to meet it, so
        that its pixels are read without resampling.

        Args:
            tissue: tissue of the slide.
            mpps: requested microns per pixel, in any order.
            patch_size: side of a patch in pixels.
            min_tissue: smallest share of tissue in a patch that passes the tissue test; if no patch
                has that much, those with any tissue pass.
            children: "tissue": patches without enough tissue keep their row but do not exist, like
                patches beyond the edge of the scan. "all" keeps every descendant, as published.
            roots: "descendants": a patch exists if and only if one of its descendants at the
                highest magnification passes the tissue test. "share": if the patch and all its
                ancestors pass the test, as published.

        Raises:
            ValueError: the ratio of two neighboring mpps is not a whole number.
            UnavailableMagnificationError: an mpp is finer than the scan, or the slide is smaller
                than one patch.
        """
        requested = sort_mpps(mpps)
        achieved = achieved_mpps(
            requested, level_mpps=tissue.level_mpps, slide_mpp=tissue.slide_mpp
        )
        patch_um = patch_size * achieved[0]
        if max(tissue.slide_size) < patch_um / tissue.slide_mpp:
            size_um = (
                tissue.slide_size[0] * tissue.slide_mpp,
                tissue.slide_size[1] * tissue.slide_mpp,
            )
            raise too_small_error(size_um, requested[0], patch_um, scan_mpp=tissue.slide_mpp)
        return cls.from_shares(
            [tissue_shares(tissue, patch_size * mpp / tissue.slide_mpp) for mpp in achieved],
            PatchRule(min_tissue, children, roots),
            mpps=achieved,
            patch_size=patch_size,
            slide_size=tissue.slide_size,
            slide_mpp=tissue.slide_mpp,
            level_mpps=tissue.level_mpps,
        )

    @classmethod
    def from_shares(
        cls,
        shares: Sequence[Float[np.ndarray, "_ _"]],
        rule: PatchRule,
        *,
        mpps: Sequence[float],
        patch_size: int,
        slide_size: tuple[int, int],
        slide_mpp: float,
        level_mpps: tuple[float, ...] = (),
    ) -> "PatchGrid":
        """Return the grid over squares with known shares of tissue.

        Args:
            shares: per step, the share of tissue in every square of the lattice, `h w`.
            rule: rule by which patches exist.
            mpps: achieved microns per pixel, coarse to fine.
            patch_size: side of a patch in pixels.
            slide_size: width and height of the slide, in level-0 pixels.
            slide_mpp: microns per level-0 pixel.
            level_mpps: microns per pixel of each level of the slide file; empty if unknown.
        """
        empty = cls(
            mpps=tuple(mpps),
            patch_size=patch_size,
            slide_size=slide_size,
            slide_mpp=slide_mpp,
            roots=np.zeros((0, 2), dtype=np.int64),
            sharpest_patches=0,
            shares=tuple(shares),
            rule=rule,
            level_mpps=level_mpps,
        )
        passing = [empty._passing(step) for step in range(len(mpps))]
        if rule.roots == "descendants":
            passing = existing_ancestors(passing[-1], empty.ratios)
        row, column = np.nonzero(passing[0])
        grid = replace(
            empty,
            roots=np.stack([column, row], axis=1),
            sharpest_patches=int(np.count_nonzero(passing[-1])),
        )
        return replace(grid, exists=grid._find_existing(passing))

    @cached_property
    def reach(self) -> Reach | None:
        """Share of the tissue that no patch covers; None if shares of tissue are unknown."""
        if self.shares is None or self.rule is None:
            return None
        step, (height, width) = len(self.mpps) - 1, self.shares[-1].shape
        return measure_reach(
            self.shares[-1],
            passing=self._passing(step),
            exists=self._existing_squares(step)[:height, :width],
            min_tissue_met=self.rule.min_tissue_met(self.shares),
            side=self.side_px(step),
        )

    @cached_property
    def unreachable(self) -> tuple[float, ...] | None:
        """Per step, the share of the tissue that has no patch; None if shares are unknown.

        Tissue counts if it lies in patches that pass the tissue test at the highest magnification.
        """
        if self.shares is None:
            return None
        share, passing = self.shares[-1], self._passing(len(self.mpps) - 1)
        height, width = share.shape
        row, column = np.divmod(np.arange(height * width), width)
        lost = []
        for step in range(len(self.mpps)):
            ratio = math.prod(self.ratios[step:])
            around = np.stack([column // ratio, row // ratio], axis=1)
            exists = _at_cells(self._existing_squares(step), around).reshape(height, width)
            lost.append(float(share[passing & ~exists].sum() / (share.sum() or 1.0)))
        return tuple(lost)

    @cached_property
    def ratios(self) -> tuple[int, ...]:
        """Number of children along one side of a patch, for each step but the last."""
        return tuple(round(coarse / fine) for coarse, fine in itertools.pairwise(self.mpps))

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """Number of rows at each step, including patches that do not exist."""
        counts = [len(self.roots)]
        for ratio in self.ratios:
            counts.append(counts[-1] * ratio**2)
        return tuple(counts)

    def children(self, step: int) -> int:
        """Return the number of children of each patch of a step."""
        return self.ratios[step] ** 2

    def side_px(self, step: int) -> float:
        """Return the side of a patch of a step, in level-0 pixels."""
        return self.patch_size * self.mpps[step] / self.slide_mpp

    def coords(
        self, step: int, rows: Int64[np.ndarray, " m"] | None = None
    ) -> Int64[np.ndarray, "m 2"]:
        """Return (x, y) of the patches' top-left corners, in level-0 pixels, rounded.

        Args:
            step: index of the magnification, 0 for the lowest.
            rows: rows of the patches; None for all.
        """
        corners: Int64[np.ndarray, "m 2"] = np.rint(self._corners(step, rows)).astype(np.int64)
        return corners

    def boxes(self, step: int, rows: Int64[np.ndarray, " m"] | None = None) -> list[Box]:
        """Return the patches as boxes in level-0 pixels, not rounded.

        Args:
            step: index of the magnification, 0 for the lowest.
            rows: rows of the patches; None for all.
        """
        side = self.side_px(step)
        return [Box(float(x), float(y), side, side) for x, y in self._corners(step, rows)]

    def valid(
        self, step: int, rows: Int64[np.ndarray, " m"] | None = None
    ) -> Bool[np.ndarray, " m"]:
        """Return whether each patch exists: has a pixel on the scan and is not left out as glass.

        Args:
            step: index of the magnification, 0 for the lowest.
            rows: rows of the patches; None for all.
        """
        if self.exists is not None:
            return self.exists[step] if rows is None else self.exists[step][rows]
        rows = np.arange(self.counts[step]) if rows is None else rows
        return self._on_scan(step, self.cells(step, rows))

    def cells(self, step: int, rows: Int64[np.ndarray, " m"]) -> Int64[np.ndarray, "m 2"]:
        """Return (column, row) of patches on the lattice of their step.

        Args:
            step: index of the magnification, 0 for the lowest.
            rows: rows of the patches.
        """
        if step == 0:
            return np.take(self.roots, rows, axis=0)
        ratio = self.ratios[step - 1]
        parents, child = np.divmod(rows, ratio**2)
        inside = np.take(child_order(ratio), child, axis=0)
        cells: Int64[np.ndarray, "m 2"] = self.cells(step - 1, parents) * ratio + inside
        return cells

    def _repr_png_(self) -> bytes:
        """Return a small PNG of the patches at each magnification, for notebooks."""
        return grid_png(self)

    def _existing_squares(self, step: int) -> Bool[np.ndarray, "h w"]:
        """Return which squares of a step's lattice are patches that exist."""
        column, row = self.cells(step, np.flatnonzero(self.valid(step))).T
        squares = np.zeros((row.max(initial=0) + 1, column.max(initial=0) + 1), dtype=bool)
        squares[row, column] = True
        if self.shares is None:
            return squares
        height, width = self.shares[step].shape
        missing = max(0, height - len(squares)), max(0, width - squares.shape[1])
        return np.pad(squares, ((0, missing[0]), (0, missing[1])))

    def _passing(self, step: int) -> Bool[np.ndarray, "h w"]:
        """Return which squares of a step's lattice pass the tissue test."""
        assert self.shares is not None
        assert self.rule is not None
        height, width = self.shares[step].shape
        row, column = np.divmod(np.arange(height * width), width)
        on_scan = self._on_scan(step, np.stack([column, row], axis=1))
        return self.rule.passing(self.shares, step, on_scan.reshape(height, width))

    def _find_existing(
        self, passing: Sequence[Bool[np.ndarray, "_ _"]]
    ) -> tuple[Bool[np.ndarray, " _"], ...]:
        """Return whether each patch exists, from which squares pass at each step."""
        assert self.rule is not None
        exists: list[Bool[np.ndarray, " _"]] = []
        for step in range(len(self.mpps)):
            cells = self.cells(step, np.arange(self.counts[step]))
            passes = _at_cells(passing[step], cells)
            if self.rule.roots == "descendants":
                exists.append(passes)
                if step > 0 and self.rule.children == "all":
                    exists[step] = passes | self._on_scan(step, cells)
                continue
            exists.append(self._on_scan(step, cells))
            if step > 0 and self.rule.children == "tissue":
                exists[step] &= passes & np.repeat(exists[step - 1], self.children(step - 1))
        return tuple(exists)

    def _on_scan(self, step: int, cells: Int64[np.ndarray, "m 2"]) -> Bool[np.ndarray, " m"]:
        """Return whether the center of a patch's first pixel lies on the scan."""
        pixel = self.side_px(step) / self.patch_size
        inside = cells * self.side_px(step) + pixel / 2 < np.array(self.slide_size)
        return np.logical_and(inside[:, 0], inside[:, 1])

    def _corners(self, step: int, rows: Int64[np.ndarray, " m"] | None) -> Float[np.ndarray, "m 2"]:
        if rows is None:
            rows = np.arange(self.counts[step])
        if self.corners is not None:
            return self.corners[step][rows]
        corners: Float[np.ndarray, "m 2"] = self.cells(step, rows) * self.side_px(step)
        return corners


def _at_cells(
    lattice: Bool[np.ndarray, "h w"], cells: Int64[np.ndarray, "m 2"]
) -> Bool[np.ndarray, " m"]:
    """Return the values of cells (column, row) of a lattice; False outside it."""
    column, row = cells.T
    height, width = lattice.shape
    inside = (column < width) & (row < height)
    values = np.zeros(len(cells), dtype=bool)
    values[inside] = lattice[row[inside], column[inside]]
    return values
