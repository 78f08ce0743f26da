"""The magnifications of a grid: their ratios, and the resolutions at which a slide has them."""

import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64

from parfocal.grid.errors import too_sharp_error
from parfocal.slide.resolution import magnification_of, same_resolution

NESTING_TOLERANCE = 1e-6  # largest relative difference of a ratio from a whole number


def whole_ratio(larger: float, smaller: float) -> int | None:
    """Return the ratio of two magnifications or resolutions if patches nest; None if they do not.

    Patches nest if the ratio is a whole number of at least 2, within `NESTING_TOLERANCE`.

    >>> whole_ratio(10, 2.5), whole_ratio(10, 4)
    (4, None)
    """
    ratio = larger / smaller
    nearest = round(ratio)
    return nearest if nearest >= 2 and abs(ratio - nearest) <= NESTING_TOLERANCE * ratio else None


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


def achieved_mpps(
    mpps: Sequence[float], *, level_mpps: Sequence[float], slide_mpp: float
) -> tuple[float, ...]:
    """Return the resolutions at which a slide has the patches of some requested resolutions.

    If the file stores a level within 5% of the sharpest mpp, all mpps are scaled to meet it, so
    that its pixels are read without resampling.

    Args:
        mpps: requested microns per pixel, coarse to fine.
        level_mpps: microns per pixel of each stored level.
        slide_mpp: microns per level-0 pixel.

    Raises:
        UnavailableMagnificationError: the finest mpp is finer than the scan.
    """
    finest, scale = mpps[-1], 1.0
    stored = min(level_mpps, key=lambda mpp: abs(mpp / finest - 1))
    if same_resolution(finest, stored):
        scale = stored / finest
    elif finest < slide_mpp:
        raise too_sharp_error(finest, slide_mpp)
    return tuple(mpp * scale for mpp in mpps)


def sort_mpps(mpps: Sequence[float]) -> tuple[float, ...]:
    """Sort microns per pixel from coarse to fine, and check that patches nest.

    Raises:
        ValueError: the ratio of two neighboring mpps is not a whole number, or there is no mpp.
    """
    ordered = tuple(sorted(mpps, reverse=True))
    if not ordered or ordered[-1] <= 0:
        raise ValueError(f"magnifications must be one or more positive numbers, not {list(mpps)}")
    for coarse, fine in itertools.pairwise(ordered):
        if whole_ratio(coarse, fine) is None:
            raise ValueError(
                f"{magnification_of(coarse):g}x to {magnification_of(fine):g}x is a ratio of "
                f"{coarse / fine:.7g}; patches nest only at whole ratios of 2 or more, as "
                "2.5, 5, 10."
            )
    return ordered


def _prime_factors(number: int) -> list[int]:
    for factor in range(2, number + 1):
        if number % factor == 0:
            return [factor, *_prime_factors(number // factor)]
    return []
