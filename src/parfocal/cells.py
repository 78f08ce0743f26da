"""The patches that a model of pixels may sample: one for each cell of its attention maps.

At each magnification, as many evenly spaced patches as are needed to cover the image: the first
begins at one edge and the last ends at the other, so every patch is whole and nothing is left out.
The magnifications are independent of each other; their cells need not nest.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from parfocal.grid import UnavailableMagnificationError, fitting_advice, too_sharp_error
from parfocal.slide.resolution import magnification_of, mpp_of, same_resolution


@dataclass(frozen=True)
class CellMap:
    """The cells of one magnification, row by row.

    Args:
        step: position of the magnification among those of the model.
        mpp: resolution of the patches, in µm per pixel.
        shape: number of rows and columns.
        boxes: x, y, width and height of the patches, in level-0 pixels.
    """

    step: int
    mpp: float
    shape: tuple[int, int]
    boxes: Float[Tensor, "n 4"]


@dataclass(frozen=True)
class Cells:
    """The cells of all magnifications of one image.

    Args:
        maps: one map per available magnification, lowest first.
    """

    maps: tuple[CellMap, ...]

    @property
    def boxes(self) -> Float[Tensor, "n 4"]:
        """Boxes of the patches in level-0 pixels, one map after the other."""
        return torch.cat([cells.boxes for cells in self.maps])

    @property
    def steps(self) -> Int64[Tensor, " n"]:
        """Position of each patch's magnification among those of the model."""
        return torch.cat([torch.full((len(cells.boxes),), cells.step) for cells in self.maps])

    @property
    def mpps(self) -> Float[Tensor, " n"]:
        """Resolution of each patch, in µm per pixel."""
        return torch.cat([torch.full((len(cells.boxes),), cells.mpp) for cells in self.maps])


def lay_cells(
    size: tuple[int, int],
    mpp: float,
    *,
    magnifications: Sequence[float],
    patch_size: int,
    skip_unavailable_magnifications: bool = False,
) -> Cells:
    """Cover an image with patches at several magnifications.

    Args:
        size: width and height of the image, in level-0 pixels.
        mpp: resolution of level 0, in µm per pixel.
        magnifications: magnifications of the patches, lowest first; one within 5% of the scan's
            is replaced by the scan's.
        patch_size: side of a patch in pixels, the same at every magnification.
        skip_unavailable_magnifications: whether to skip magnifications that the image does not
            have; if False, they are an error.

    Raises:
        UnavailableMagnificationError: a magnification is higher than that of the scan, or the
            image is smaller than a patch; or, if unavailable ones are skipped, none is left.
    """
    maps, errors = [], []
    for step, magnification in enumerate(magnifications):
        try:
            patch_mpp = _patch_mpp(size, mpp, magnification, patch_size)
        except UnavailableMagnificationError as error:
            errors.append(error)
        else:
            maps.append(_cover(step, size, mpp, patch_mpp, patch_size))
    if errors and not (skip_unavailable_magnifications and maps):
        raise errors[0]
    return Cells(tuple(maps))


def center_cells(
    size: tuple[int, int],
    mpp: float,
    *,
    magnification: float,
    patch_size: int,
    shape: tuple[int, int],
) -> CellMap:
    """Center a patch on each cell of a map; patches at the edges are moved inside the image.

    Args:
        size: width and height of the image, in level-0 pixels.
        mpp: resolution of level 0, in µm per pixel.
        magnification: magnification of the patches.
        patch_size: side of a patch in pixels.
        shape: number of rows and columns of the map.

    Raises:
        UnavailableMagnificationError: the magnification is higher than that of the scan, or the
            image is smaller than a patch.
    """
    patch_mpp = _patch_mpp(size, mpp, magnification, patch_size)
    side = patch_size * patch_mpp / mpp

    def starts(length: int, count: int) -> Float[Tensor, " n"]:
        centers = (torch.arange(count) + 0.5) * length / count
        return (centers - side / 2).round().clamp(0, max(0.0, length - side))

    return _cell_map(0, patch_mpp, side, starts(size[0], shape[1]), starts(size[1], shape[0]))


def octaves(lowest: float, highest: float) -> tuple[float, ...]:
    """Return the magnifications of a range, each twice the previous one, ending at the highest.

    >>> octaves(2.5, 20)
    (2.5, 5.0, 10.0, 20.0)

    Raises:
        ValueError: the range is empty.
    """
    if not 0 < lowest <= highest:
        raise ValueError(
            f"{lowest:g} to {highest:g} is not a range of magnifications; write the lowest first, "
            "for example 2.5-20"
        )
    magnifications = [float(highest)]
    while magnifications[0] / 2 >= lowest * 0.999:
        magnifications.insert(0, magnifications[0] / 2)
    return tuple(magnifications)


def _patch_mpp(size: tuple[int, int], mpp: float, magnification: float, patch_size: int) -> float:
    """Return the resolution at which patches of a magnification are read."""
    patch_mpp = mpp_of(magnification)
    if same_resolution(patch_mpp, mpp):
        patch_mpp = mpp
    if patch_mpp < mpp:
        raise too_sharp_error(patch_mpp, mpp)
    width, height = (side * mpp / patch_mpp for side in size)
    if min(width, height) < patch_size - 0.5:
        raise UnavailableMagnificationError(
            f"the image is {width:.0f} x {height:.0f} px at {magnification_of(patch_mpp):g}x, "
            f"smaller than one patch of {patch_size} px",
            fitting_advice(
                magnification_of(patch_mpp) * patch_size / min(width, height), magnification_of(mpp)
            ),
        )
    return patch_mpp


def _cover(
    step: int, size: tuple[int, int], mpp: float, patch_mpp: float, patch_size: int
) -> CellMap:
    """Cover the image with evenly spaced patches, at whole level-0 pixels."""
    side = patch_size * patch_mpp / mpp

    def starts(length: int) -> Float[Tensor, " n"]:
        count = ceil(length / side - 1e-3)  # with a tolerance for rounding
        return torch.linspace(0, max(0.0, length - side), count).round()

    return _cell_map(step, patch_mpp, side, starts(size[0]), starts(size[1]))


def _cell_map(
    step: int, mpp: float, side: float, x: Float[Tensor, " c"], y: Float[Tensor, " r"]
) -> CellMap:
    top, left = torch.meshgrid(y, x, indexing="ij")
    sides = torch.full((top.numel(),), side)
    boxes = torch.stack([left.flatten(), top.flatten(), sides, sides], dim=1)
    return CellMap(step, mpp, (len(y), len(x)), boxes)
