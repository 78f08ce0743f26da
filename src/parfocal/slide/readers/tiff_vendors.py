"""Recognize the scanners' own TIFF formats by their directories, where OpenSlide cannot look."""

from collections.abc import Sequence

from parfocal.slide.readers.tiff_directories import TiffDirectory

# What OpenSlide calls files that are read directly. Those of other vendors may have tiles that
# overlap or leave gaps.
DIRECT_VENDORS = (None, "generic-tiff", "aperio")
TRESTLE_SOFTWARE = "MedScan"
VENTANA_XML = "<iScan"
XMP = 700  # the tag that holds it


def scanner_vendor(directories: Sequence[TiffDirectory]) -> str | None:
    """Return the name of the scanner's format that OpenSlide would read; None if it is another.

    Args:
        directories: all directories of a file.
    """
    first = directories[0].page
    if first.is_ndpi:
        return "hamamatsu"
    if first.is_scn:
        return "leica"
    if first.is_philips:
        return "philips"
    if str(first.tags.valueof("Software", "")).startswith(TRESTLE_SOFTWARE):
        return "trestle"
    if any(directory.page.is_bif or _has_ventana_xml(directory) for directory in directories):
        return "ventana"
    return None


def _has_ventana_xml(directory: TiffDirectory) -> bool:
    value = directory.page.tags.valueof(XMP, b"")
    text = value if isinstance(value, bytes) else str(value).encode()
    return VENTANA_XML.encode() in text
