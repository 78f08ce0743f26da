"""The resolution that a file records, if it can be believed."""

from parfocal.slide.errors import ImplausibleMppError, MissingMppError, NotSquareError
from parfocal.slide.readers.scan import SQUARE_TOLERANCE, Scan
from parfocal.slide.resolution import MAX_MPP, MIN_MPP
from parfocal.slide.sources.url import SlidePath


def recorded_mpp(scan: Scan, path: SlidePath, *, from_cohort: bool) -> float:
    """Return the microns per level-0 pixel that a file records.

    Args:
        scan: the open file.
        path: the file, for messages.
        from_cohort: whether messages name the columns of a cohort's table.

    Raises:
        MissingMppError: the file records none.
        ImplausibleMppError: it is outside 0.05 to 50.
        NotSquareError: the sides of a pixel differ by more than 2%.
    """
    mpp = scan.metadata.mpp
    if mpp is None:
        raise MissingMppError(path, scan.metadata.objective_power, from_cohort=from_cohort)
    if not MIN_MPP <= mpp <= MAX_MPP:
        raise ImplausibleMppError(path, mpp, from_cohort=from_cohort)
    sides = scan.metadata.sides
    if sides is not None and abs(sides[0] / sides[1] - 1) > SQUARE_TOLERANCE:
        raise NotSquareError(path, sides, from_cohort=from_cohort)
    return mpp
