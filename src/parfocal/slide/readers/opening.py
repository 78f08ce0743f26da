"""Choose the reader for a slide file."""

import os
import stat
from pathlib import Path

from parfocal.cost import CostMeter
from parfocal.slide.errors import SlideError
from parfocal.slide.readers.dicom import check_series, dicom_instances, is_dicom
from parfocal.slide.readers.image import open_image
from parfocal.slide.readers.openslide import OpenSlideScan
from parfocal.slide.readers.scan import Scan
from parfocal.slide.readers.tiff_checks import (
    MissingTiles,
    all_directories,
    check_directories,
    check_missing,
)
from parfocal.slide.readers.tiff_directories import TiffDirectory, is_tiff, read_directories
from parfocal.slide.readers.tiff_pixels import UnsupportedPixelsError
from parfocal.slide.readers.tiled_tiff import open_tiled_tiff
from parfocal.slide.readers.wsi_dicom import WsiDicomScan

# What OpenSlide calls files that are read directly. Those of other vendors may have tiles that
# overlap or leave gaps.
DIRECT_VENDORS = (None, "generic-tiff", "aperio")
LEVEL_0_SHARE = 0.5  # of the area of the largest image, at least
SPARSE_VENDORS = ("philips",)  # leave out blank tiles on purpose


def open_scan(path: Path, cost_meter: CostMeter, *, missing_tiles: MissingTiles = "auto") -> Scan:
    """Open a TIFF directly, other slides with OpenSlide, and images in memory.

    Args:
        path: the file; for DICOM, any instance of the series or its folder.
        cost_meter: counts the bytes read, if the reader reports them.
        missing_tiles: what to do with tiles that are not stored: "refuse", or "background" to
            read them as such; "auto" for background in formats that leave out blank tiles on
            purpose, and to refuse others.

    Raises:
        SlideError: the file is missing, is not a slide, or is damaged.
    """
    # Path.is_dir raises for a name that is too long.
    file = dicom_instances(path)[0] if os.path.isdir(path) else path  # noqa: PTH112
    _check_file(file)
    if is_tiff(file):
        return _open_tiff(file, cost_meter, missing_tiles)
    if is_dicom(file):
        can_openslide = check_series(file)
        return OpenSlideScan(file) if can_openslide else WsiDicomScan(dicom_instances(file))
    return OpenSlideScan(file) if OpenSlideScan.detects(file) else open_image(file)


def _check_file(file: Path) -> None:
    """Raise if a path is not a file with content that can be read."""
    try:
        is_file = stat.S_ISREG(file.stat().st_mode)
        if is_file:
            with file.open("rb") as opened:
                is_empty = not opened.read(1)
    except FileNotFoundError as error:
        raise SlideError(
            f"{file}: no such file. Check the path; in a cohort's CSV file, paths are relative to "
            "the CSV file."
        ) from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise SlideError(
            f"{file}: the file cannot be read ({reason}). Check its name and permissions."
        ) from error
    if not is_file:
        raise SlideError(f"{file}: not a file but a device, pipe or socket. Name a slide file.")
    if is_empty:
        raise SlideError(f"{file}: the file is empty (0 bytes). Copy it again from its source.")


def _open_tiff(file: Path, cost_meter: CostMeter, missing_tiles: MissingTiles) -> Scan:
    """Open a TIFF, whose directories are checked before any library relies on them."""
    directories = read_directories(file)
    check_directories(file, directories, is_ndpi=bool(directories[0].page.is_ndpi))
    vendor = None if directories[0].page.is_ome else OpenSlideScan.vendor(file)
    if vendor not in DIRECT_VENDORS:
        return _open_vendor(file, directories, vendor, missing_tiles)
    try:
        return open_tiled_tiff(file, directories, cost_meter, missing_tiles=missing_tiles)
    except UnsupportedPixelsError as error:
        scan = _open_like_openslide(file, directories) if vendor and error.only_here else None
        if scan is None:
            raise SlideError(f"{file.name}: the file has {error}") from error
        return scan


def _open_vendor(
    file: Path,
    directories: tuple[TiffDirectory, ...],
    vendor: str | None,
    missing_tiles: MissingTiles,
) -> Scan:
    """Open a scanner's own TIFF with OpenSlide."""
    images = all_directories(directories)
    if missing_tiles == "auto" and vendor in SPARSE_VENDORS:
        missing_tiles = "background"
    notes = check_missing(file, [d for d in images if d.is_tiled], missing_tiles)
    scan = OpenSlideScan(file, notes=notes)
    level = scan.levels[0]
    largest = max((image.size for image in images), key=lambda size: size[0] * size[1])
    # Sizes differ a little where tiles overlap, and by a factor of four for another level.
    if level.width * level.height < LEVEL_0_SHARE * largest[0] * largest[1]:
        scan.close()
        raise SlideError(
            f"{file.name}: OpenSlide reads an image of {level.width} x {level.height} px as level "
            f"0, but the file holds one of {largest[0]} x {largest[1]} px. Copy the file again "
            "from its source."
        )
    return scan


def _open_like_openslide(file: Path, directories: tuple[TiffDirectory, ...]) -> Scan | None:
    """Open pixels that only OpenSlide decodes; None if it would take the file for another."""
    images = all_directories(directories)
    largest = max(images, key=lambda image: image.size[0] * image.size[1])
    is_plain = (
        largest.orientation == 1 and not largest.page.extrasamples and largest.is_stored.all()
    )
    if not is_plain or largest.bits != 8 or largest.samples != 3:
        return None
    try:
        scan = OpenSlideScan(file)
    except SlideError:
        return None
    if (scan.levels[0].width, scan.levels[0].height) != largest.size:
        scan.close()
        return None
    return scan
