"""List the slides that paths stand for: files, folders of slides, and DICOM series."""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

from tifffile import TiffFile

from parfocal.files import is_file, is_folder
from parfocal.slide.errors import MAX_NAMES
from parfocal.slide.identity import unique_slides
from parfocal.slide.readers.dicom import list_folder
from parfocal.slide.readers.dicom_header import is_dicom
from parfocal.slide.readers.image import is_image
from parfocal.slide.readers.openslide import OpenSlideScan
from parfocal.slide.readers.tiff_directories import SIGNATURES
from parfocal.slide.sources.url import SlidePath, SlideUrl

SLIDE_SUFFIXES = (
    *(".svs", ".tif", ".tiff", ".btf", ".qptiff", ".ndpi", ".vms", ".vmu", ".scn", ".mrxs"),
    *(".bif", ".svslide", ".czi"),
)
# Beside slides, pictures are thumbnails, labels, or parts of a slide.
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")
OVERLAY_SUFFIX, OVERLAY_SOFTWARE = ".ome.tif", "parfocal overlay"  # of attention maps, no slides

logger = logging.getLogger(__name__)


def list_slides(paths: Iterable[SlidePath]) -> list[SlidePath]:
    """Return the slides that paths stand for, each once.

    A folder stands for the slides in it; see `slides_in`. A folder without any slide stays, and
    fails as a slide with the reason.

    Args:
        paths: slide files, folders and URLs.
    """
    listed: list[SlidePath] = []
    for path in paths:
        found = slides_in(path) if isinstance(path, Path) and is_folder(path) else []
        listed += found or [path]
    return unique_slides(listed)


def slides_in(folder: Path, *, pictures: bool = True) -> list[Path]:
    """Return the slides in a folder, sorted by name.

    A DICOM series is one slide, in the folder itself or in a direct subfolder; it is named by its
    folder if it is the only slide there. Other subfolders are not searched, and neither are hidden
    files. Overlays that `predict` wrote are skipped, which is logged.

    Args:
        folder: the folder.
        pictures: whether to return pictures (PNG, JPEG, BMP) if there is nothing else.
    """
    try:
        entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError:
        return []  # the folder fails as a slide
    files = [entry for entry in entries if is_file(entry)]
    slides = [file for file in files if file.suffix.lower() in SLIDE_SUFFIXES]
    if overlays := [file for file in slides if _is_overlay(file)]:
        logger.info("%s: skipped, as they are overlays of parfocal: %s", folder, _names(overlays))
        slides = [file for file in slides if file not in overlays]
    slides += _series_in(folder, is_alone=not slides)
    mirax = {file.stem for file in files if file.suffix.lower() == ".mrxs"}
    for subfolder in entries:
        if is_folder(subfolder) and subfolder.name not in mirax:
            slides += _series_in(subfolder, is_alone=True)
    if not slides and pictures and not overlays:  # the pictures beside overlays are maps
        return [file for file in files if file.suffix.lower() in PICTURE_SUFFIXES]
    return sorted(slides)


def may_be_slide(path: SlidePath) -> bool:
    """Return whether a file has the format of a slide or a picture; True for a URL."""
    if isinstance(path, SlideUrl):
        return True
    try:
        if is_folder(path):
            return bool(slides_in(path))
        with path.open("rb") as file:
            is_tiff = file.read(4) in SIGNATURES
        return is_tiff or is_dicom(path) or OpenSlideScan.detects(path) or is_image(path)
    except (OSError, ValueError):
        return False  # missing, or a name that is impossible


def _series_in(folder: Path, *, is_alone: bool) -> list[Path]:
    """Return the DICOM slides in a folder.

    Args:
        folder: the folder.
        is_alone: whether it has no other slides.
    """
    try:
        listed = list_folder(folder)
    except OSError:
        return []
    if is_alone and len(listed.series) == 1:
        return [folder]
    return [files[0].path for files in listed.series.values()] + list(listed.damaged)


def _is_overlay(file: Path) -> bool:
    """Return whether a file is an overlay that `predict` wrote."""
    if not file.name.endswith(OVERLAY_SUFFIX):
        return False
    try:
        with TiffFile(file) as tiff:
            return tiff.pages.first.software == OVERLAY_SOFTWARE
    except Exception:  # damage raises anything; the file then fails as a slide
        return False


def _names(files: Sequence[Path]) -> str:
    """Return the names of the first files, and how many more there are."""
    more = f" and {len(files) - MAX_NAMES} more" if len(files) > MAX_NAMES else ""
    return ", ".join(file.name for file in files[:MAX_NAMES]) + more
