"""Nested square patches of a slide at each magnification.

The patches of the lowest magnification tile the slide from its top-left corner; those with tissue
are kept. Every patch is divided into whole children at the next magnification. Children with too
little tissue can be left out.

Source: the preprocessing of ZoomMIL (Thandiackal, Chen et al., ECCV 2022).
Departs: the grid starts at the scan's corner, not at a centered white margin, so that patches align
    with the tiles of the file; any whole ratio between magnifications. `children="tissue"`: the
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
    describe_too_sharp,
    magnification_of,
    same_resolution,
)
from parfocal.slide.slide import Box
from parfocal.slide.tissue import Tissue

ANY_TISSUE = 1e-7  # smallest share of tissue that counts; shares are exact to about 1e-10
NESTING_TOLERANCE = 1e-6  # largest relative difference of a ratio from a whole number


class GridError(SlideError):
    """No patches can be laid over a slide. The message does not name the slide."""


class UnavailableMagnificationError(GridError):
    """A magnification is sharper than the scan, or so low that the slide is smaller than a patch.

    Args:
        problem: what does not fit.
        advice: what to do if magnifications can be chosen.
    """

    def __init__(self, problem: str, advice: str) -> None:
        super().__init__(problem, advice)

    def __str__(self) -> str:
        problem, advice = self.args
        return f"{problem}; {advice}."

    def message_for_model(self, magnifications: Sequence[float]) -> str:
        """Return the message for a trained model, whose magnifications cannot be chosen.

        Args:
            magnifications: magnifications of the model.
        """
        names = ", ".join(f"{magnification:g}x" for magnification in magnifications)
        return (
            f"{self.args[0]}; the model was trained at {names} and takes no other, so correct the "
            "slide's mpp if it is wrong, exclude the slide, or train with other --magnifications."
        )


def too_sharp_error(wanted: float, scan: float) -> UnavailableMagnificationError:
    """Return the error for a resolution that is finer than the scan.

    Args:
        wanted: requested resolution, in µm per pixel.
        scan: resolution of the scan, in µm per pixel.
    """
    return UnavailableMagnificationError(
        describe_too_sharp(wanted, scan),
        "leave that magnification out (--magnifications), or correct the slide's mpp",
    )


def whole_ratio(larger: float, smaller: float) -> int | None:
    """Return the ratio of two magnifications or resolutions if patches nest; None if they do not.

    Patches nest if the ratio is a whole number of at least 2, within `NESTING_TOLERANCE`.

    >>> whole_ratio(10, 2.5), whole_ratio(10, 4)
    (4, None)
    """
    ratio = larger / smaller
    nearest = round(ratio)
    return nearest if nearest >= 2 and abs(ratio - nearest) <= NESTING_TOLERANCE * ratio else None


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
        sharpest_patches: number of patches that pass the same tissue test at the highest
            magnification, which exhaustive processing would encode.
        exists: per step, whether each patch exists; None if every patch on the scan does.
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
        """Return the grid over a slide's tissue.

        If the file stores a level within 5% of the sharpest mpp, all mpps are scaled to meet it, so
        that its pixels are read without resampling.

        Args:
            tissue: tissue of the slide.
            mpps: requested microns per pixel, in any order.
            patch_size: side of a patch in pixels.
            min_tissue: smallest share of tissue in a kept patch; if no patch has that much, all
                patches with any tissue are kept.
            children: "tissue" keeps only descendants with the same share of tissue; the others
                keep their row but do not exist, like patches beyond the edge of the scan. "all"
                keeps every descendant, as published.

        Raises:
            ValueError: the ratio of two neighboring mpps is not a whole number.
            UnavailableMagnificationError: an mpp is finer than the scan, or the slide is smaller
                than one patch.
        """
        requested = _sort_mpps(mpps)
        scale = _scale_to_level(requested[-1], tissue)
        achieved = tuple(mpp * scale for mpp in requested)
        width, height = tissue.slide_size
        side = patch_size * achieved[0] / tissue.slide_mpp
        if max(width, height) < side:
            raise _too_small_error(tissue, requested[0], patch_size * achieved[0])
        cells, share = _lattice(tissue, side)
        # The share of a patch is the mean of its children's, so one that passes has a child that
        # does, up to rounding.
        required = min_tissue * (1 - 1e-6) if (share >= min_tissue).any() else ANY_TISSUE
        sharpest = _lattice(tissue, patch_size * achieved[-1] / tissue.slide_mpp)[1]
        grid = cls(
            mpps=achieved,
            patch_size=patch_size,
            slide_size=tissue.slide_size,
            slide_mpp=tissue.slide_mpp,
            roots=cells[share >= required],
            sharpest_patches=int(np.count_nonzero(sharpest >= required)),
        )
        return grid if children == "all" else grid._without_glass(tissue, required)

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
        pixel = self.side_px(step) / self.patch_size
        inside = self._corners(step, rows) + pixel / 2 < np.array(self.slide_size)
        return np.logical_and(inside[:, 0], inside[:, 1])

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

    def _without_glass(self, tissue: Tissue, required: float) -> "PatchGrid":
        exists = [self.valid(0)]
        for step in range(1, len(self.mpps)):
            x, y = self._corners(step, None).T
            share = tissue.fraction(x, y, self.side_px(step))
            parent_exists = np.repeat(exists[-1], self.children(step - 1))
            exists.append(parent_exists & self.valid(step) & (share >= required))
        return replace(self, exists=tuple(exists))

    def _corners(self, step: int, rows: Int64[np.ndarray, " m"] | None) -> Float[np.ndarray, "m 2"]:
        if rows is None:
            rows = np.arange(self.counts[step])
        corners: Float[np.ndarray, "m 2"] = self.cells(step, rows) * self.side_px(step)
        return corners


def child_order(ratio: int) -> Int64[np.ndarray, "c 2"]:
    """Return the (column, row) of a patch's children inside it, in nested order.

    The order is depth first over the prime factors of the ratio, and column by column. So the
    children of 1.25x at 5x are the grandchildren over 2.5x, in the same order.

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


def _sort_mpps(mpps: Sequence[float]) -> tuple[float, ...]:
    """Sort mpps from coarse to fine, and check that patches nest."""
    ordered = tuple(sorted(mpps, reverse=True))
    if not ordered or ordered[-1] <= 0:
        raise ValueError(f"magnifications must be one or more positive numbers, not {list(mpps)}")
    for coarse, fine in itertools.pairwise(ordered):
        if whole_ratio(coarse, fine) is None:
            raise ValueError(
                f"{magnification_of(coarse):g}x to {magnification_of(fine):g}x is a ratio of "
                f"{coarse / fine:.7g}; patches nest only at whole ratios of 2 or more, as "
                "1.25, 2.5, 10."
            )
    return ordered


def _scale_to_level(finest: float, tissue: Tissue) -> float:
    """Return the factor that brings the finest mpp to a stored level near it; 1 if none is near."""
    stored = min(tissue.level_mpps, key=lambda mpp: abs(mpp / finest - 1))
    if same_resolution(finest, stored):
        return stored / finest
    if finest < tissue.slide_mpp:
        raise too_sharp_error(finest, tissue.slide_mpp)
    return 1.0


def _too_small_error(
    tissue: Tissue, lowest: float, patch_um: float
) -> UnavailableMagnificationError:
    width, height = (side * tissue.slide_mpp for side in tissue.slide_size)
    return UnavailableMagnificationError(
        f"the slide is {width:.0f} x {height:.0f} um, {width / patch_um:.2g} x "
        f"{height / patch_um:.2g} of a patch at {magnification_of(lowest):g}x ({patch_um:.0f} um "
        "wide)",
        "use higher --magnifications or smaller patches (slide.patch_size), or exclude the slide",
    )


def _lattice(
    tissue: Tissue, side: float
) -> tuple[Int64[np.ndarray, "n 2"], Float[np.ndarray, " n"]]:
    """Return the (column, row) of all cells of a lattice over a slide, and their tissue shares."""
    width, height = tissue.slide_size
    columns, rows = max(1, int(np.ceil(width / side))), max(1, int(np.ceil(height / side)))
    row, column = np.divmod(np.arange(columns * rows), columns)
    return np.stack([column, row], axis=1), tissue.fraction(column * side, row * side, side)
