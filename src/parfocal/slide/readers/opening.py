"""Choose the reader for a slide file."""

from pathlib import Path

from parfocal.cost import CostMeter
from parfocal.slide.errors import SlideError
from parfocal.slide.readers.image import open_image
from parfocal.slide.readers.openslide import OpenSlideScan, find_dicom_instance
from parfocal.slide.readers.scan import Scan
from parfocal.slide.readers.tiff_directories import TiffDirectory, is_tiff, read_directories
from parfocal.slide.readers.tiled_tiff import VENDORS, open_tiled_tiff


def open_scan(path: Path, cost_meter: CostMeter) -> Scan:
    """Open a file directly if it is a tiled TIFF, else with OpenSlide, else with Pillow.

    Args:
        path: the file; for DICOM, any instance of the series or its folder.
        cost_meter: counts the bytes read, if the reader reports them.

    Raises:
        SlideError: the file is missing, is not a slide, or is damaged.
    """
    if not path.exists():
        raise SlideError(
            f"{path}: no such file. Check the path; in a cohort's CSV file, paths are relative to "
            "the CSV file."
        )
    file = find_dicom_instance(path) if path.is_dir() else path
    _check_not_empty(file)
    openslide = OpenSlideScan(file) if OpenSlideScan.detects(file) else None
    directories = _read_directories(file, openslide)
    if directories:
        direct = open_tiled_tiff(file, directories, openslide, cost_meter)
        if direct is not None:
            if openslide is not None:
                openslide.close()
            return direct
    return openslide or open_image(file)


def _check_not_empty(file: Path) -> None:
    try:
        with file.open("rb") as opened:
            is_empty = not opened.read(1)
    except OSError as error:
        raise SlideError(
            f"{file}: the file cannot be read ({error.strerror}). Check its permissions."
        ) from error
    if is_empty:
        raise SlideError(f"{file}: the file is empty (0 bytes). Copy it again from its source.")


def _read_directories(file: Path, openslide: Scan | None) -> tuple[TiffDirectory, ...]:
    """Read the directories of a TIFF that may be read directly; none for any other file."""
    if openslide is None:
        # The rest of a truncated slide may still hold a picture, but not the whole slide.
        return read_directories(file) if is_tiff(file) else ()
    if openslide.metadata.vendor not in VENDORS:
        return ()
    try:
        return read_directories(file)
    except SlideError:
        return ()  # OpenSlide reads what it can, and reports damage where it finds it
