"""Microns per pixel, which code reckons in, and magnification, its label for people."""

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


def near(wanted: float, stored: float) -> bool:
    """Tell whether stored pixels serve for the mpp wanted."""
    return abs(wanted / stored - 1) <= SCAN_TOLERANCE + 1e-9


def sharper_than_the_scan(wanted: float, scan: float) -> str:
    """Say that an mpp is finer than the scan's own."""
    return (
        f"{magnification_of(wanted):g}x ({wanted:.3g} um/px) is sharper than the scan, which is "
        f"{magnification_of(scan):g}x ({scan:.3g} um/px)"
    )
