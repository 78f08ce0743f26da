"""Choose the reader for a slide file."""

import stat
from contextlib import ExitStack
from pathlib import Path

from parfocal.cost import CostMeter
from parfocal.files import is_folder
from parfocal.slide.errors import SlideError
from parfocal.slide.readers.dicom import dicom_instances
from parfocal.slide.readers.dicom_header import is_dicom
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
from parfocal.slide.readers.tiff_vendors import DIRECT_VENDORS
from parfocal.slide.readers.tiled_dicom import open_dicom
from parfocal.slide.readers.tiled_tiff import open_tiled_tiff
from parfocal.slide.readers.url import open_url
from parfocal.slide.sources.local import LocalSource
from parfocal.slide.sources.source import ByteSource
from parfocal.slide.sources.url import SlidePath, SlideUrl

LEVEL_0_SHARE = 0.5  # of the area of the largest image, at least
SPARSE_VENDORS = ("philips",)  # leave out blank tiles on purpose


def open_scan(
    path: SlidePath, cost_meter: CostMeter, *, missing_tiles: MissingTiles = "auto"
) -> Scan:
    """Open a TIFF directly, other slides with OpenSlide, and images in memory.

    Args:
        path: the file; for DICOM, any instance of the series or its folder; or a URL.
        cost_meter: counts the bytes read, if the reader reports them.
        missing_tiles: what to do with tiles that are not stored: "refuse", or "background" to
            read them as such; "auto" for background in formats that leave out blank tiles on
            purpose, and to refuse others.

    Raises:
        SlideError: the file is missing, is not a slide, or is damaged.
    """
    if isinstance(path, SlideUrl):
        return open_url(path, cost_meter, missing_tiles, open_scan)
    file = dicom_instances(path)[0] if is_folder(path) else path
    _check_file(file)
    with ExitStack() as stack:
        source = LocalSource(file, cost_meter)
        stack.callback(source.close)
        if is_tiff(source):
            scan = _open_tiff(file, source, missing_tiles)
            if isinstance(scan, OpenSlideScan):
                cost_meter.forget_bytes()
            else:
                stack.pop_all()  # the scan closes it
            return scan
    cost_meter.forget_bytes()
    if is_dicom(file):
        return open_dicom(file, cost_meter)
    return OpenSlideScan(file) if OpenSlideScan.detects(file) else open_image(file)


def _check_file(file: Path) -> None:
    """Raise if a path is not a file with content that can be read."""
    try:
        is_file = stat.S_ISREG(file.stat().st_mode)
        if is_file:
            with file.open("rb") as opened:
                is_empty = not opened.read(1)
    except FileNotFoundError as error:
        raise SlideError(f"{file}: no such file. Check the path.") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise SlideError(
            f"{file}: the file cannot be read ({reason}). Check its name and permissions."
        ) from error
    if not is_file:
        raise SlideError(f"{file}: not a file but a device, pipe or socket. Name a slide file.")
    if is_empty:
        raise SlideError(f"{file}: the file is empty (0 bytes). Copy it again from its source.")


def _open_tiff(file: Path, source: ByteSource, missing_tiles: MissingTiles) -> Scan:
    """Open a TIFF, whose directories are checked before any library relies on them."""
    directories = read_directories(file, source)
    check_directories(file, source.size, directories, is_ndpi=bool(directories[0].page.is_ndpi))
    vendor = None if directories[0].page.is_ome else OpenSlideScan.vendor(file)
    if vendor not in DIRECT_VENDORS:
        return _open_vendor(file, directories, vendor, missing_tiles)
    try:
        return open_tiled_tiff(file, directories, source, missing_tiles=missing_tiles)
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
