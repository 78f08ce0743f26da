"""Where patches lie at each magnification; parents and children.

The patches of the lowest magnification tile the slide from its top-left corner, and those with
tissue are kept. Every patch is cut into whole children, and so on down to the sharpest; those
with too little tissue may be left out.

Source: the preprocessing of ZoomMIL (Thandiackal, Chen et al., ECCV 2022).
Departs: the grid starts at the scan's corner, not at a centerd white margin, so that patches
    meet the file's own tiles; any whole ratio between magnifications. `children="tissue"`: the
    authors keep every descendant.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int64

from parfocal.slide.errors import SlideError
from parfocal.slide.resolution import (
    magnification_of,
    near,
    sharper_than_the_scan,
)
from parfocal.slide.slide import Box
from parfocal.slide.tissue import Tissue

ANY_TISSUE = 1e-7  # shares of tissue are exact to about 1e-10


class GridError(SlideError):
    """A slide on which no patch can be chosen; the message does not name it."""


class UnfitError(GridError):
    """Magnifications that do not fit a slide: sharper than its scan, or too low for its size.

    Args:
        found: what does not fit.
        advice: what to do where magnifications can be chosen.
    """

    def __init__(self, found: str, advice: str) -> None:
        super().__init__(found, advice)

    def __str__(self) -> str:
        found, advice = self.args
        return f"{found}; {advice}."

    def for_model(self, magnifications: Sequence[float]) -> str:
        """Say it of a trained model, whose magnifications are no longer to be chosen."""
        names = ", ".join(f"{magnification:g}x" for magnification in magnifications)
        return (
            f"{self.args[0]}; the model looks at {names} and at no other, so correct the slide's "
            "mpp if it is wrong, leave the slide out, or train with other --magnifications."
        )


def too_sharp(wanted: float, scan: float) -> UnfitError:
    """Give the error of an mpp finer than the scan's own."""
    return UnfitError(
        sharper_than_the_scan(wanted, scan),
        "leave that magnification out (--magnifications), or correct the slide's mpp",
    )


@dataclass(frozen=True)
class PatchGrid:
    """Nested square patches over the tissue of one slide.

    Args:
        mpps: achieved microns per pixel, coarse to fine.
        patch_size: side of a patch in pixels, the same at every magnification.
        slide_size: width and height in level-0 pixels.
        slide_mpp: microns per level-0 pixel.
        roots: (column, row) of the patches kept at the lowest magnification.
        sharpest_patches: how many patches pass the same tissue test at the sharpest
            magnification: what looking at everything there would encode.
        exists: by step, which patches exist; None for all those on the scan.
    """

    mpps: tuple[float, ...]
    patch_size: int
    slide_size: tuple[int, int]
    slide_mpp: float
    roots: Int64[np.ndarray, "n 2"]
    sharpest_patches: int
    exists: tuple[Bool[np.ndarray, " _"], ...] | None = None

    @classmethod
    def over(
        cls,
        tissue: Tissue,
        mpps: Sequence[float],
        patch_size: int = 256,
        *,
        min_tissue: float = 0.1,
        children: Literal["all", "tissue"] = "tissue",
    ) -> "PatchGrid":
        """Lay a grid over a slide's tissue.

        All mpps are scaled alike, by up to 5%, where that makes the sharpest a level the
        file stores: its pixels are then read as they are.

        Args:
            tissue: of the slide.
            mpps: wanted microns per pixel; sorted coarse to fine here.
            patch_size: side of a patch in pixels.
            min_tissue: a patch is kept when at least this share of it is tissue; where none
                has so much, all with any are kept.
            children: "tissue" holds descendants to the same share, and leaves out the others at
                no cost to the nested order: they do not exist, like those beyond the edge of the
                scan. "all" keeps them, as published.

        Raises:
            ValueError: two neighbors are not a whole multiple of each other.
            UnfitError: sharper than the scan, or a slide smaller than one patch.
        """
        wanted = _ladder(mpps)
        scale = _snap(wanted[-1], tissue)
        achieved = tuple(mpp * scale for mpp in wanted)
        width, height = tissue.slide_size
        side = patch_size * achieved[0] / tissue.slide_mpp
        if max(width, height) < side:
            raise _too_small(tissue, wanted[0], patch_size * achieved[0])
        cells, share = _tissue_cells(tissue, side)
        # A patch is as full as its children on the mean, so one that passes has one that does,
        # but for rounding.
        enough = min_tissue * (1 - 1e-6) if (share >= min_tissue).any() else ANY_TISSUE
        sharpest = _tissue_cells(tissue, patch_size * achieved[-1] / tissue.slide_mpp)[1]
        grid = cls(
            mpps=achieved,
            patch_size=patch_size,
            slide_size=tissue.slide_size,
            slide_mpp=tissue.slide_mpp,
            roots=cells[share >= enough],
            sharpest_patches=int(np.count_nonzero(sharpest >= enough)),
        )
        return grid if children == "all" else grid._without_glass(tissue, enough)

    @cached_property
    def ratios(self) -> tuple[int, ...]:
        """Children along one side of a patch, for each step but the last."""
        return tuple(round(coarse / fine) for coarse, fine in itertools.pairwise(self.mpps))

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """Patches at each step, those that do not exist included."""
        counts = [len(self.roots)]
        for ratio in self.ratios:
            counts.append(counts[-1] * ratio**2)
        return tuple(counts)

    def children(self, step: int) -> int:
        """Count the children of one patch of a step."""
        return self.ratios[step] ** 2

    def side_px(self, step: int) -> float:
        """Give the side of a patch of a step, in level-0 pixels."""
        return self.patch_size * self.mpps[step] / self.slide_mpp

    def coords(
        self, step: int, rows: Int64[np.ndarray, " m"] | None = None
    ) -> Int64[np.ndarray, "m 2"]:
        """Give the (x, y) of patches' top-left corners, in level-0 pixels, in nested order.

        Args:
            step: 0 the lowest magnification.
            rows: which patches; None for all.
        """
        corners: Int64[np.ndarray, "m 2"] = np.rint(self._corners(step, rows)).astype(np.int64)
        return corners

    def boxes(self, step: int, rows: Int64[np.ndarray, " m"] | None = None) -> list[Box]:
        """Give the patches as boxes, in level-0 pixels and their fractions."""
        side = self.side_px(step)
        return [Box(float(x), float(y), side, side) for x, y in self._corners(step, rows)]

    def valid(
        self, step: int, rows: Int64[np.ndarray, " m"] | None = None
    ) -> Bool[np.ndarray, " m"]:
        """Tell which patches exist: at least one pixel is on the scan, and `exists` agrees."""
        if self.exists is not None:
            return self.exists[step] if rows is None else self.exists[step][rows]
        pixel = self.side_px(step) / self.patch_size
        inside = self._corners(step, rows) + pixel / 2 < np.array(self.slide_size)
        return np.logical_and(inside[:, 0], inside[:, 1])

    def _without_glass(self, tissue: Tissue, enough: float) -> "PatchGrid":
        exists = [self.valid(0)]
        for step in range(1, len(self.mpps)):
            x, y = self._corners(step, None).T
            share = tissue.fraction(x, y, self.side_px(step))
            parents = np.repeat(exists[-1], self.children(step - 1))
            exists.append(parents & self.valid(step) & (share >= enough))
        return replace(self, exists=tuple(exists))

    def _corners(self, step: int, rows: Int64[np.ndarray, " m"] | None) -> Float[np.ndarray, "m 2"]:
        if rows is None:
            rows = np.arange(self.counts[step])
        corners: Float[np.ndarray, "m 2"] = self.cells(step, rows) * self.side_px(step)
        return corners

    def cells(self, step: int, rows: Int64[np.ndarray, " m"]) -> Int64[np.ndarray, "m 2"]:
        """Give (column, row) of patches on the step's own lattice."""
        if step == 0:
            return np.take(self.roots, rows, axis=0)
        ratio = self.ratios[step - 1]
        parents, child = np.divmod(rows, ratio**2)
        inside = np.take(child_order(ratio), child, axis=0)
        cells: Int64[np.ndarray, "m 2"] = self.cells(step - 1, parents) * ratio + inside
        return cells


def child_order(ratio: int) -> Int64[np.ndarray, "c 2"]:
    """Give the (column, row) of a patch's children inside it, in nested order.

    Depth first over the ratio's prime factors and down the columns, so that going from
    1.25x to 5x gives the grandchildren of 1.25x over 2.5x, in the same order.

    >>> child_order(2).tolist()
    [[0, 0], [0, 1], [1, 0], [1, 1]]
    """
    order = np.zeros((1, 2), dtype=np.int64)
    for factor in _prime_factors(ratio):
        column, row = np.divmod(np.arange(factor**2), factor)
        block = np.stack([column, row], axis=1)
        order = (order[:, None] * factor + block).reshape(-1, 2)
    return order


def _prime_factors(number: int) -> list[int]:
    for factor in range(2, number + 1):
        if number % factor == 0:
            return [factor, *_prime_factors(number // factor)]
    return []


def _ladder(mpps: Sequence[float]) -> tuple[float, ...]:
    """Sort mpps coarse to fine, and refuse steps that are not whole."""
    ladder = tuple(sorted(mpps, reverse=True))
    if not ladder or ladder[-1] <= 0:
        raise ValueError(f"magnifications must be one or more positive numbers, not {list(mpps)}")
    for coarse, fine in itertools.pairwise(ladder):
        ratio = coarse / fine
        if round(ratio) < 2 or abs(ratio - round(ratio)) > 1e-3 * ratio:
            raise ValueError(
                f"{magnification_of(coarse):g}x to {magnification_of(fine):g}x is a step of "
                f"{ratio:.3g}; patches nest only in whole steps of 2 or more, as 1.25, 2.5, 10."
            )
    return ladder


def _snap(finest: float, tissue: Tissue) -> float:
    """Give the factor that brings the sharpest mpp onto a stored level near it, or 1."""
    stored = min(tissue.level_mpps, key=lambda mpp: abs(mpp / finest - 1))
    if near(finest, stored):
        return stored / finest
    if finest < tissue.slide_mpp:
        raise too_sharp(finest, tissue.slide_mpp)
    return 1.0


def _too_small(tissue: Tissue, lowest: float, patch_um: float) -> UnfitError:
    width, height = (side * tissue.slide_mpp for side in tissue.slide_size)
    return UnfitError(
        f"the slide is {width:.0f} x {height:.0f} um, {width / patch_um:.2g} x "
        f"{height / patch_um:.2g} of a patch at {magnification_of(lowest):g}x ({patch_um:.0f} um "
        "wide), so there is nothing to choose from",
        "use higher --magnifications or smaller patches (slide.patch_size), or leave the slide out",
    )


def _tissue_cells(
    tissue: Tissue, side: float
) -> tuple[Int64[np.ndarray, "n 2"], Float[np.ndarray, " n"]]:
    """List the cells of a lattice over the whole slide, with their share of tissue."""
    width, height = tissue.slide_size
    columns, rows = max(1, int(np.ceil(width / side))), max(1, int(np.ceil(height / side)))
    row, column = np.divmod(np.arange(columns * rows), columns)
    return np.stack([column, row], axis=1), tissue.fraction(column * side, row * side, side)
