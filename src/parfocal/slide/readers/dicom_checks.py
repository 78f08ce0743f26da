"""Check that a DICOM slide can be what its headers say, before anything relies on them."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

from parfocal.slide.errors import SlideError
from parfocal.slide.readers.dicom import DicomFile, Instance, dicom_series
from parfocal.slide.readers.dicom_frames import check_frames
from parfocal.slide.readers.dicom_header import (
    EXPLICIT,
    IMPLICIT,
    WHOLE_SLIDE_CLASS,
    DicomHeader,
    read_header,
)

JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
JPEG_2000 = ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91")
UNCOMPRESSED = (IMPLICIT, EXPLICIT)
# Transfer syntaxes that OpenSlide decodes.
OPENSLIDE_DECODES = (*UNCOMPRESSED, JPEG_BASELINE, *JPEG_2000)
# Those that wsidicom decodes besides: RLE, JPEG-LS, HTJ2K, JPEG XL.
WSIDICOM_DECODES = (
    *("1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"),
    *(f"1.2.840.10008.1.2.4.{number}" for number in (110, 111, 112, 201, 202, 203)),
)
REFUSED_NAMES = {
    "1.2.840.10008.1.2.1.99": "as a deflated file",
    "1.2.840.10008.1.2.2": "in big endian",
    "1.2.840.10008.1.2.4.51": "as JPEG of 12 bits",
    "1.2.840.10008.1.2.4.57": "as lossless JPEG",
    "1.2.840.10008.1.2.4.70": "as lossless JPEG",
}
InstanceT = TypeVar("InstanceT", bound=Instance)
MAX_TILE_PX = 2**24
MAX_SIDE_PX = 2**21
MAX_FRAMES = 2**24
SHAPE_TOLERANCE = 0.02  # largest difference of two quotients that should be equal
CODESTREAM = b"\xff\x4f\xff\x51"  # start of a JPEG 2000 image
CODING_STYLE = b"\xff\x52"
SEARCHED_BYTES = 2**22  # of a file, for its first JPEG 2000 image
TRANSFORMED = ("YBR_ICT", "YBR_RCT")
COPY = "Copy it again from its source."


def check_series(path: Path) -> list[DicomFile]:
    """Check the slide that a DICOM file belongs to.

    Returns:
        The files of its levels, sharpest first.

    Raises:
        SlideError: it is no slide, is damaged, or is encoded in a way that is not decoded.
    """
    if read_header(path).class_uid != WHOLE_SLIDE_CLASS:
        raise SlideError(
            f"{path.name}: a DICOM file that is not a whole-slide image. Choose another file."
        )
    levels = find_levels(path.name, dicom_series(path))
    for level in levels:
        _check_encoding(level)
        check_frames(level)
    check_levels(levels)
    return levels


def find_levels(name: str, instances: Iterable[InstanceT]) -> list[InstanceT]:
    """Return the levels of a series, sharpest first, each of whose headers can be true.

    Args:
        name: name of the slide.
        instances: all instances of the series.

    Raises:
        SlideError: there is no level, or a header contradicts itself.
    """
    instances = list(instances)
    levels = [each for each in instances if each.header.is_level]
    if not levels:
        raise SlideError(
            f"{name}: the DICOM series holds a label or an overview, but no level of the "
            "slide. Copy all its files."
        )
    for each in instances:
        if problem := _contradiction(each.header):
            raise SlideError(f"{each.name}: the DICOM header says {problem}. {COPY}")
    return sorted(levels, key=lambda level: level.header.size[0], reverse=True)


def is_decoded_by_openslide(levels: Sequence[DicomFile]) -> bool:
    """Return whether OpenSlide decodes the pixels of all levels."""
    return {level.header.syntax_uid for level in levels} <= set(OPENSLIDE_DECODES)


def _contradiction(header: DicomHeader) -> str:
    """Return how a header contradicts itself; empty if it does not."""
    (tile_width, tile_height), (width, height) = header.tile_size, header.size
    if not 1 <= tile_width * tile_height <= MAX_TILE_PX:
        return f"tiles of {tile_width} x {tile_height} px"
    if not (1 <= width <= MAX_SIDE_PX and 1 <= height <= MAX_SIDE_PX):
        return f"an image of {width} x {height} px"
    if not 1 <= header.frames <= MAX_FRAMES:
        return f"{header.frames} tiles"
    if header.pixels is None and header.is_tiled_full:
        return "nothing of the pixels"
    if header.meta_class_uid not in ("", header.class_uid):
        return f"that the file is of two kinds, {header.meta_class_uid} and {header.class_uid}"
    return _check_counts(header) or (_check_length(header) if header.is_level else "")


def _check_counts(header: DicomHeader) -> str:
    """Compare the number of frames with that of the tiles, at every depth and optical path."""
    columns, rows = header.tile_counts
    tiles = columns * rows * header.planes * header.paths
    if header.is_part or header.frames == tiles or not header.is_tiled_full:
        return ""
    if header.planes * header.paths == 0 or header.planes * header.paths > header.frames:
        return f"{header.planes} focal planes and {header.paths} optical paths"
    return (
        f"{header.frames} tiles of {header.tile_size[0]} x {header.tile_size[1]} px, but "
        f"{header.size[0]} x {header.size[1]} px need {tiles}"
    )


def _check_length(header: DicomHeader) -> str:
    """Compare the length of uncompressed pixels with the number of frames."""
    if header.pixels is None or header.syntax_uid not in UNCOMPRESSED:
        return ""
    (width, height), length = header.tile_size, header.pixels.length
    needed = width * height * header.samples * header.bits[0] // 8 * header.frames
    if length is None or length - needed not in (0, 1):  # a value has an even length
        return f"{header.frames} tiles of {needed} bytes in all, but stores {length or 'frames'}"
    return ""


def _check_encoding(level: DicomFile) -> None:
    file, header = level.path, level.header
    if header.syntax_uid not in (*OPENSLIDE_DECODES, *WSIDICOM_DECODES):
        name = REFUSED_NAMES.get(header.syntax_uid, "in an unknown way")
        raise SlideError(
            f"{file.name}: the DICOM pixels are encoded {name} ({header.syntax_uid}), which "
            "neither OpenSlide nor wsidicom decodes. Convert it to JPEG, for example with "
            "`wsidicomizer`."
        )
    if header.photometric in TRANSFORMED and not _is_transformed(file):
        raise SlideError(
            f"{file.name}: the DICOM header says {header.photometric}, but the JPEG 2000 data is "
            "not transformed that way, so its colors are unknown. Export it again from its source."
        )


def check_levels(levels: Sequence[Instance]) -> None:
    """Check that the levels are one picture in several sizes.

    Raises:
        SlideError: two levels have one size, another shape, or pixels of an impossible size.
    """
    first = levels[0].header
    for before, level in pairwise(levels):
        name, header, (width, height) = level.name, level.header, level.header.size
        if (width, height) == before.header.size and not header.is_part:
            raise SlideError(
                f"{name}: the DICOM series holds the level of {width} x {height} px twice, in "
                f"{before.name} and in this file. Remove the file that does not belong to it."
            )
        # Some writers fill up their levels to whole tiles.
        if all(side % tile == 0 for side, tile in zip(header.size, header.tile_size, strict=True)):
            continue
        if not _same_shape(first.size, header.size):
            raise SlideError(
                f"{name}: a level of {width} x {height} px does not have the shape of level 0, "
                f"{first.size[0]} x {first.size[1]} px. {COPY}"
            )
        if not _same_extent(first, header):
            assert header.sides_um is not None
            assert first.sides_um is not None
            raise SlideError(
                f"{name}: {width} x {height} px of {header.sides_um[0]:.4g} um are not the area of "
                f"level 0, {first.size[0]} x {first.size[1]} px of {first.sides_um[0]:.4g} um. "
                "Copy the files again."
            )


def _same_shape(full: tuple[int, int], size: tuple[int, int]) -> bool:
    """Return whether an image can be a smaller version of another, up to rounded sides."""
    low = [side / (small + 1) for side, small in zip(full, size, strict=True)]
    high = [side / max(small - 1, 0.5) for side, small in zip(full, size, strict=True)]
    quotient = full[0] / size[0] / (full[1] / size[1])
    is_rounded = low[0] <= high[1] and low[1] <= high[0]
    return is_rounded or abs(quotient - 1) <= SHAPE_TOLERANCE


def _same_extent(first: DicomHeader, header: DicomHeader) -> bool:
    """Return whether the recorded sizes of pixels agree with the sizes of two levels."""
    if first.sides_um is None or header.sides_um is None:
        return True
    for axis in (0, 1):
        expected = first.sides_um[axis] * first.size[axis] / header.size[axis]
        rounding = 1 / header.size[axis]  # the last pixel may be a part of one
        if abs(header.sides_um[axis] / expected - 1) > SHAPE_TOLERANCE + rounding:
            return False
    return True


def _is_transformed(file: Path) -> bool:
    """Return whether the first JPEG 2000 image of a file declares the color transform."""
    with file.open("rb") as opened:
        content = opened.read(SEARCHED_BYTES)
    start = content.find(CODESTREAM)
    style = content.find(CODING_STYLE, start) if start >= 0 else -1
    # Two bytes each of marker and length; style, progression, two of layers; then the transform.
    return style >= 0 and content[style + 8 : style + 9] == b"\1"
