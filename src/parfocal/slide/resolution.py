"""Microns per pixel, which code reckons in, and magnification, its label for people."""

from collections.abc import Iterable

MIN_MPP, MAX_MPP = 0.05, 50.0  # an overview of CAMELYON16 is truly 28.97
SCAN_TOLERANCE = 0.05  # a stored level this near to the wanted mpp is read as it is


def mpp_of(magnification: float) -> float:
    """Convert a nominal magnification to microns per pixel.

    >>> mpp_of(10)
    1.0
    """
    return 10 / magnification


def magnification_of(mpp: float) -> float:
    """Convert microns per pixel to the nominal magnification, rounded as people say it.

    >>> magnification_of(0.2428), magnification_of(8)
    (41.2, 1.25)
    """
    return float(f"{10 / mpp:.3g}")


def magnification_asked(mpp: float, asked: Iterable[float]) -> float:
    """Give the magnification asked for that an mpp serves for; else what the mpp comes to.

    So a step of a model has one name on every slide, whatever its scanner's pixels are.

    >>> magnification_asked(0.96, (2.5, 10)), magnification_asked(0.8, (2.5, 10))
    (10, 12.5)
    """
    served = (magnification for magnification in asked if near(mpp_of(magnification), mpp))
    return next(served, magnification_of(mpp))


def near(wanted: float, stored: float) -> bool:
    """Tell whether stored pixels serve for the mpp wanted."""
    return abs(wanted / stored - 1) <= SCAN_TOLERANCE + 1e-9


def sharper_than_the_scan(wanted: float, scan: float) -> str:
    """Say that an mpp is finer than the scan's own."""
    return (
        f"{magnification_of(wanted):g}x ({wanted:.3g} um/px) is sharper than the scan, which is "
        f"{magnification_of(scan):g}x ({scan:.3g} um/px)"
    )
