"""Check the files of a slide that is neither TIFF nor DICOM before OpenSlide opens it.

OpenSlide does not check the records of these files. Damage that their headers show is refused with
the reason; to detect other damage, the slide is first opened in a child process. The directories of
TIFF files and the headers of DICOM files are checked in other modules, without a child process.
"""

import struct
from collections.abc import Callable
from pathlib import Path

from parfocal.slide.errors import SlideError, one_line
from parfocal.slide.readers.czi_checks import check_czi
from parfocal.slide.readers.mirax_checks import check_mirax
from parfocal.slide.readers.probe import probe
from parfocal.slide.readers.vms_checks import check_vms

SQLITE = b"SQLite format 3\0"
PAGE_SIZE_AT, PAGES_AT = 16, 28


def check_files(path: Path, vendor: str) -> None:
    """Check the files of a slide, and try it in a child process.

    Args:
        path: a slide that is neither TIFF nor DICOM.
        vendor: what OpenSlide calls its format.

    Raises:
        SlideError: a file is missing, damaged or truncated, or OpenSlide does not survive it.
    """
    check = CHECKS.get(vendor)
    try:
        files = [path] if check is None else check(path)
    except (ValueError, OSError) as error:
        raise SlideError(
            f"{path.name}: this {NAMES[vendor]} slide is damaged or incomplete: {one_line(error)}. "
            "Copy it again from its source, with all files that belong to it."
        ) from error
    probe(path, files)


def check_sakura(path: Path) -> list[Path]:
    """Check that an SVSLIDE file, which is an SQLite database, has all its pages.

    Raises:
        ValueError: it is truncated.
    """
    with path.open("rb") as file:
        header = file.read(PAGES_AT + 4)
    if not header.startswith(SQLITE) or len(header) < PAGES_AT + 4:
        raise ValueError("it is no SQLite database")
    (size,) = struct.unpack_from(">H", header, PAGE_SIZE_AT)
    (pages,) = struct.unpack_from(">I", header, PAGES_AT)
    needed, length = (2**16 if size == 1 else size) * pages, path.stat().st_size
    if length < needed:
        raise ValueError(f"it is truncated: it has {length} of {needed} bytes")
    return [path]


# By vendor; OpenSlide calls both VMS and NDPI, which is TIFF, hamamatsu.
CHECKS: dict[str, Callable[[Path], list[Path]]] = {
    "mirax": check_mirax,
    "hamamatsu": check_vms,
    "zeiss": check_czi,
    "sakura": check_sakura,
}
NAMES = {"mirax": "MIRAX", "hamamatsu": "Hamamatsu VMS", "zeiss": "CZI", "sakura": "SVSLIDE"}
