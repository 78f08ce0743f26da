"""The nominal magnification of a scan, as TRIDENT derives it from its µm per pixel."""

# µm per pixel up to which a scan counts as one of a magnification.
NOMINAL = ((0.16, 80), (0.2, 60), (0.3, 40), (0.6, 20), (1.2, 10), (2.4, 5))


def nominal_magnification(mpp: float) -> int:
    """Return the magnification that TRIDENT takes a scan of an mpp for.

    >>> nominal_magnification(0.2325), nominal_magnification(0.5)
    (40, 20)
    """
    return next((magnification for limit, magnification in NOMINAL if mpp <= limit), 5)
