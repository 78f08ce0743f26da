"""Where the cells of attention maps lie: the patches a model of pixels may sample.

At each magnification as many cells as it takes patches to cover the image, evenly spaced: the
first begins at one edge and the last ends at the other, so every patch is whole and nothing
is left out. Magnifications are independent of each other; cells need not nest.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from parfocal.grid import UnfitError, too_sharp
from parfocal.slide.resolution import magnification_of, mpp_of, near


@dataclass(frozen=True)
class CellMap:
    """The cells of one magnification, row by row.

    Args:
        step: its place among the magnifications asked for.
        mpp: microns per pixel of the patches.
        shape: rows and columns.
        boxes: the patches, in level-0 pixels.
    """

    step: int
    mpp: float
    shape: tuple[int, int]
    boxes: Float[Tensor, "n 4"]


@dataclass(frozen=True)
class Cells:
    """The cells of all magnifications of one image, one map after the other."""

    maps: tuple[CellMap, ...]

    @property
    def boxes(self) -> Float[Tensor, "n 4"]:
        """The patches, in level-0 pixels."""
        return torch.cat([cells.boxes for cells in self.maps])

    @property
    def steps(self) -> Int64[Tensor, " n"]:
        """Which magnification each is of."""
        return torch.cat([torch.full((len(cells.boxes),), cells.step) for cells in self.maps])

    @property
    def mpps(self) -> Float[Tensor, " n"]:
        """Microns per pixel of each."""
        return torch.cat([torch.full((len(cells.boxes),), cells.mpp) for cells in self.maps])


def lay_cells(
    size: tuple[int, int],
    mpp: float,
    *,
    magnifications: Sequence[float],
    patch_size: int,
    skip_unavailable_magnifications: bool = False,
) -> Cells:
    """Lay the cells of several magnifications over an image.

    Args:
        size: width and height of the image, in level-0 pixels.
        mpp: microns per level-0 pixel.
        magnifications: lowest first; one within 5% of the scan's own is read at the scan's.
        patch_size: side of a patch in pixels, the same at every magnification.
        skip_unavailable_magnifications: leave out the magnifications that do not fit the image.

    Raises:
        UnfitError: a magnification is sharper than the scan, or the image smaller than a patch
            there; with `skip_unavailable_magnifications`, all are.
    """
    maps, refusals = [], []
    for step, magnification in enumerate(magnifications):
        try:
            achieved = _achieved(size, mpp, magnification, patch_size)
        except UnfitError as refusal:
            refusals.append(refusal)
        else:
            maps.append(_cover(step, size, mpp, achieved, patch_size))
    if refusals and not (skip_unavailable_magnifications and maps):
        raise refusals[0]
    return Cells(tuple(maps))


def center_cells(
    size: tuple[int, int],
    mpp: float,
    *,
    magnification: float,
    patch_size: int,
    shape: tuple[int, int],
) -> CellMap:
    """Lay patches on the centers of a map's cells, those at its edges moved inside the image.

    Args:
        size: width and height of the image, in level-0 pixels.
        mpp: microns per level-0 pixel.
        magnification: of the patches.
        patch_size: side of a patch in pixels.
        shape: rows and columns of the map.

    Raises:
        UnfitError: it is sharper than the scan, or the image smaller than a patch.
    """
    achieved = _achieved(size, mpp, magnification, patch_size)
    side = patch_size * achieved / mpp

    def starts(length: int, count: int) -> Float[Tensor, " n"]:
        middles = (torch.arange(count) + 0.5) * length / count
        return (middles - side / 2).round().clamp(0, max(0.0, length - side))

    return _cell_map(0, achieved, side, starts(size[0], shape[1]), starts(size[1], shape[0]))


def _achieved(size: tuple[int, int], mpp: float, magnification: float, patch_size: int) -> float:
    """Give the mpp at which an image is looked at, or refuse it."""
    wanted = mpp_of(magnification)
    if near(wanted, mpp):
        wanted = mpp
    if wanted < mpp:
        raise too_sharp(wanted, mpp)
    width, height = (side * mpp / wanted for side in size)
    if min(width, height) < patch_size - 0.5:
        raise UnfitError(
            f"the image is {width:.0f} x {height:.0f} px at {magnification_of(wanted):g}x, smaller "
            f"than one patch of {patch_size} px",
            "use higher --magnifications or smaller patches (slide.patch_size)",
        )
    return wanted


def _cover(step: int, size: tuple[int, int], mpp: float, wanted: float, patch_size: int) -> CellMap:
    """Space as many patches as cover the image evenly, in whole level-0 pixels."""
    side = patch_size * wanted / mpp

    def starts(length: int) -> Float[Tensor, " n"]:
        count = ceil(length / side - 1e-3)  # but for rounding
        return torch.linspace(0, max(0.0, length - side), count).round()

    return _cell_map(step, wanted, side, starts(size[0]), starts(size[1]))


def _cell_map(
    step: int, mpp: float, side: float, x: Float[Tensor, " c"], y: Float[Tensor, " r"]
) -> CellMap:
    top, left = torch.meshgrid(y, x, indexing="ij")
    sides = torch.full((top.numel(),), side)
    boxes = torch.stack([left.flatten(), top.flatten(), sides, sides], dim=1)
    return CellMap(step, mpp, (len(y), len(x)), boxes)


def octaves(lowest: float, highest: float) -> tuple[float, ...]:
    """Give the magnifications of a range, each twice the one before, up to its highest.

    >>> octaves(2.5, 20)
    (2.5, 5.0, 10.0, 20.0)

    Raises:
        ValueError: the range is empty.
    """
    if not 0 < lowest <= highest:
        raise ValueError(f"{lowest:g} to {highest:g} is no range; give the lowest first, as 2.5-20")
    ladder = [float(highest)]
    while ladder[0] / 2 >= lowest * 0.999:
        ladder.insert(0, ladder[0] / 2)
    return tuple(ladder)
