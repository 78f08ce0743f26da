"""Which pages of a TIFF are a slide's levels, and whether they can be read directly.

What a plain or Aperio file is and says is OpenSlide's word. Of an OME-TIFF OpenSlide sees one level
at most, so there the file's own metadata is asked. To OpenSlide are left every other vendor, whose
tiles may overlap or leave gaps, and any file with a level that is not 8-bit RGB in tiles that are
all stored, in a coding of `CODINGS` and of the colors that its tag says.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tifffile import COMPRESSION, ORIENTATION, PHOTOMETRIC, PLANARCONFIG, TiffFile, TiffPage

from parfocal.slide.ome import ome_record
from parfocal.slide.scan import Record, Scan

VENDORS = ("generic-tiff", "aperio")  # as OpenSlide calls them
CODINGS = (
    *(COMPRESSION.NONE, COMPRESSION.LZW, COMPRESSION.ADOBE_DEFLATE, COMPRESSION.DEFLATE),
    *(COMPRESSION.JPEG, COMPRESSION.APERIO_JP2000_RGB),
)
# It tells of odd tags; that is for a program that sets up logging, not for every terminal.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


@dataclass(frozen=True)
class Pyramid:
    """What a file says of itself, and the page of each level, sharpest first."""

    record: Record
    pages: Sequence[TiffPage]


def find_pyramid(tiff: TiffFile, known: Scan | None) -> Pyramid | None:
    """Find the pages that are levels; None where they are not to be read directly.

    Args:
        tiff: the file.
        known: the same, opened by OpenSlide; None where it does not know the format.
    """
    first = tiff.pages[0].aspage()
    found = _ome_pyramid(first) if first.is_ome else _known_pyramid(tiff, known)
    return found if found and all(_is_readable(page) for page in found.pages) else None


def _ome_pyramid(first: TiffPage) -> Pyramid | None:
    record = ome_record(first.description)
    reduced = [page.aspage() for page in first.pages or ()]
    return None if record is None else Pyramid(record, [first, *reduced])


def _known_pyramid(tiff: TiffFile, known: Scan | None) -> Pyramid | None:
    """Find the one page of the size of each level."""
    if known is None:
        return None
    pages, levels = [page.aspage() for page in tiff.pages], []
    for level in known.levels:
        size = level.width, level.height
        same_size_pages = [page for page in pages if (page.imagewidth, page.imagelength) == size]
        # Where a tile's own header says YCbCr and the tag RGB, OpenSlide believes the tag.
        if len(same_size_pages) != 1 or (
            same_size_pages[0].is_jfif and same_size_pages[0].photometric == PHOTOMETRIC.RGB
        ):
            return None
        levels += same_size_pages
    return Pyramid(known.record, levels)


def _is_readable(page: TiffPage) -> bool:
    """Tell whether a page is of 8-bit RGB in tiles that are all stored and can be decoded."""
    is_rgb = page.photometric == PHOTOMETRIC.RGB or (
        page.photometric == PHOTOMETRIC.YCBCR and page.compression == COMPRESSION.JPEG
    )
    columns, rows = -(-page.imagewidth // page.tilewidth), -(-page.imagelength // page.tilelength)
    return bool(
        is_rgb
        and page.is_tiled
        and page.compression in CODINGS
        and page.dtype == np.uint8
        and page.shape == (page.imagelength, page.imagewidth, 3)
        and page.planarconfig == PLANARCONFIG.CONTIG
        and page.tags.valueof("Orientation", ORIENTATION.TOPLEFT) == ORIENTATION.TOPLEFT
        and len(page.dataoffsets) == len(page.databytecounts) == columns * rows
        and 0 not in page.dataoffsets
        and 0 not in page.databytecounts
    )
