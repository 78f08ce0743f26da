"""Microns per pixel (mpp), the unit of resolution, and magnification, a label for people."""

from collections.abc import Iterable

MIN_MPP, MAX_MPP = 0.05, 50.0  # an overview image of CAMELYON16 has 28.97
SAME_RESOLUTION = 0.05  # a scan within this fraction of the requested mpp is used as it is


def mpp_of(magnification: float) -> float:
    """Convert a nominal magnification to microns per pixel.

    >>> mpp_of(10)
    1.0
    """
    return 10 / magnification


def magnification_of(mpp: float) -> float:
    """Convert microns per pixel to the nominal magnification, with three significant digits.

    >>> magnification_of(0.2428), magnification_of(8)
    (41.2, 1.25)
    """
    return float(f"{10 / mpp:.3g}")


def requested_magnification(mpp: float, requested: Iterable[float]) -> float:
    """Return the requested magnification that an mpp stands for.

    The steps of a model then have the same names on every slide, whatever the slide's mpp is.

    Args:
        mpp: microns per pixel that were read.
        requested: magnifications that were requested.

    Returns:
        The first requested magnification with the same resolution; if there is none, the
        magnification computed from `mpp`.

    >>> requested_magnification(0.96, (2.5, 10)), requested_magnification(0.8, (2.5, 10))
    (10, 12.5)
    """
    for magnification in requested:
        if same_resolution(mpp_of(magnification), mpp):
            return magnification
    return magnification_of(mpp)


def same_resolution(requested: float, stored: float) -> bool:
    """Return whether pixels of the mpp `stored` can be used as they are for the mpp `requested`."""
    return abs(requested / stored - 1) <= SAME_RESOLUTION + 1e-9


def check_mpp(mpp: float) -> None:
    """Raise ValueError if an mpp set by the user is outside 0.05 to 50."""
    if not MIN_MPP <= mpp <= MAX_MPP:
        raise ValueError(
            f"mpp={mpp:g} is outside {MIN_MPP:g} to {MAX_MPP:g} microns per pixel. A 40x scan has "
            "about 0.25, a 20x scan about 0.5."
        )


def describe_too_sharp(requested: float, scan: float) -> str:
    """Describe, for a message, that a requested mpp is finer than the scan's own."""
    return (
        f"{magnification_of(requested):g}x ({requested:.3g} µm/px) is sharper than the scan, which "
        f"is {magnification_of(scan):g}x ({scan:.3g} µm/px)"
    )
