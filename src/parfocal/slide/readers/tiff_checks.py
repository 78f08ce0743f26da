"""Check the directories of a TIFF before anything relies on them.

Damage to a directory is often still a valid TIFF: OpenSlide aborts the process if a tile is too
large for memory, and reads white where tiles are missing.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from tifffile import COMPRESSION

from parfocal.slide.errors import SlideError, one_line
from parfocal.slide.readers.tiff_directories import DAMAGE, TiffDirectory
from parfocal.slide.sources.url import SlidePath

MissingTiles = Literal["auto", "refuse", "background"]

MAX_SIDE_PX = 2**21  # 100 mm at 0.05 µm/px
MAX_TILE_PX = 2**24
MAX_STRIP_PX = 2**30  # a picture in one compressed strip is decoded whole: 3 GiB of RGB
MAX_SAMPLES = 64
LARGE_BYTES = 2**26  # from here on, a tile has to have a plausible compression
MAX_COMPRESSION = 4096
FIRST_BYTE = 8  # the header of a TIFF ends here
COPY = "Copy the file again from its source."


def all_directories(directories: Sequence[TiffDirectory]) -> list[TiffDirectory]:
    """Return the directories and those of the smaller images below each."""
    found = []
    for directory in directories:
        found += [directory, *all_directories(directory.reduced)]
    return found


def check_directories(
    path: SlidePath, length: int, directories: Sequence[TiffDirectory], *, is_ndpi: bool
) -> None:
    """Check that every image of a file can be what its directory says.

    Args:
        path: the file.
        length: its number of bytes.
        directories: all its directories.
        is_ndpi: whether it is a Hamamatsu NDPI file, whose images are one JPEG image each.

    Raises:
        SlideError: a directory contradicts itself or the file.
    """
    for number, directory in enumerate(all_directories(directories)):
        try:
            problem = _contradiction(directory, is_ndpi=is_ndpi)
            if not problem and not directory.deferred:
                problem = _check_places(directory, length, is_ndpi=is_ndpi)
        except DAMAGE as error:
            problem = f"cannot be understood ({one_line(error)})"
        if problem:
            raise SlideError(f"{path.name}: image {number} of the file {problem}. {COPY}")


def check_deferred(
    path: SlidePath, length: int, level: TiffDirectory, missing_tiles: MissingTiles
) -> None:
    """Check the tiles of a level whose positions are read only now.

    Args:
        path: the file.
        length: its number of bytes.
        level: the directory of the level.
        missing_tiles: see `check_missing`.

    Raises:
        SlideError: the positions or lengths contradict the directory or the file, or tiles are
            missing and are refused.
    """
    problem = _check_places(level, length, is_ndpi=False)
    if problem:
        size = " x ".join(map(str, level.size))
        raise SlideError(f"{path.name}: the image of {size} px {problem}. {COPY}")
    check_missing(path, [level], missing_tiles)


def check_missing(
    path: SlidePath, levels: Sequence[TiffDirectory], missing_tiles: MissingTiles
) -> tuple[str, ...]:
    """Check whether all tiles of the levels are stored, and describe those that are not.

    Args:
        path: the file.
        levels: the directory of each level, sharpest first.
        missing_tiles: "background" to read such tiles as white; all else refuses them.

    Raises:
        SlideError: tiles are not stored and are refused, or no tile is stored.
    """
    notes = []
    for number, level in enumerate(levels):
        missing, count = int((~level.is_stored).sum()), len(level.is_stored)
        if not missing:
            continue
        kind = "tiles" if level.is_tiled else "strips"
        found = f"{missing} of the {count} {kind} ({missing / count:.1%}) of level {number}"
        if missing == count:
            raise SlideError(
                f"{path.name}: none of the {count} {kind} of level {number} is stored, as after an "
                f"interrupted export. {COPY}"
            )
        if missing_tiles != "background":
            raise SlideError(
                f"{path.name}: {found} are not stored, as after an interrupted export. Copy or "
                "export the file again; if blank areas were left out on purpose, set "
                "slide.missing_tiles to background."
            )
        notes.append(f"{found} are not stored and are read as background")
    return tuple(notes)


def _contradiction(directory: TiffDirectory, *, is_ndpi: bool) -> str:
    """Return how a directory contradicts itself; empty if it does not."""
    width, height = directory.size
    if not (1 <= width <= MAX_SIDE_PX and 1 <= height <= MAX_SIDE_PX):
        return f"is {width} x {height} px, which no slide is"
    if not (1 <= directory.samples <= MAX_SAMPLES and 1 <= directory.bits <= 64):
        return f"has {directory.samples} samples of {directory.bits} bits per pixel"
    if directory.page.imagedepth != 1:
        return f"is a volume of {directory.page.imagedepth} layers"
    # An NDPI image is one JPEG image, in rows of blocks that tifffile lists as tiles.
    problem = _check_tile_size(directory, is_ndpi=is_ndpi)
    if problem or is_ndpi:
        return problem
    return _check_counts(directory)


def _check_places(directory: TiffDirectory, length: int, *, is_ndpi: bool) -> str:
    """Return what is wrong with the positions and lengths of tiles; empty if nothing is."""
    problem = "" if is_ndpi else _check_lengths(directory)
    return problem or _misplaced(directory, length)


def _check_tile_size(directory: TiffDirectory, *, is_ndpi: bool) -> str:
    width, height = directory.tile_size
    kind = "tiles" if directory.is_tiled else "strips"
    if width < 1 or height < 1:
        return f"has {kind} of {width} x {height} px"
    limit = MAX_TILE_PX if directory.is_tiled and not is_ndpi else MAX_STRIP_PX
    return (
        f"has {kind} of {width} x {height} px, which is too large" if width * height > limit else ""
    )


def _check_counts(directory: TiffDirectory) -> str:
    columns, rows = directory.tile_counts
    expected = columns * rows * directory.planes
    counts = directory.stored_counts
    if counts == (expected, expected):
        return ""
    kind = "tiles" if directory.is_tiled else "strips"
    return (
        f"has {counts[0]} positions and {counts[1]} lengths of {kind}, but its size of "
        f"{directory.size[0]} x {directory.size[1]} px needs {expected}"
    )


def _check_lengths(directory: TiffDirectory) -> str:
    """Compare the lengths of the tiles with the number of their pixels."""
    width, height = directory.tile_size
    samples = directory.samples // directory.planes
    row_bytes = -(-width * samples * directory.bits // 8)
    stored = directory.byte_counts[directory.is_stored]
    if len(stored) == 0:
        return ""
    if directory.page.compression == COMPRESSION.NONE:
        rest = directory.size[1] - (directory.tile_counts[1] - 1) * height
        allowed = {row_bytes * height} | ({row_bytes * rest} if not directory.is_tiled else set())
        if not directory.is_subsampled and not set(np.unique(stored).tolist()) <= allowed:
            return "has uncompressed pixels whose length does not fit its size"
    elif row_bytes * height > LARGE_BYTES and row_bytes * height > MAX_COMPRESSION * stored.min():
        return f"has {row_bytes * height} bytes of pixels stored in {stored.min()} bytes"
    return ""


def _misplaced(directory: TiffDirectory, length: int) -> str:
    """Return whether tiles lie where they cannot; empty if all are well."""
    if len(directory.offsets) != len(directory.byte_counts):
        return "has positions without lengths of its tiles"
    starts = directory.offsets[directory.is_stored]
    ends = starts + directory.byte_counts[directory.is_stored]
    beyond = int(((ends > length) | (starts < FIRST_BYTE) | (ends < starts)).sum())
    if beyond:
        kind = "tiles" if directory.is_tiled else "strips"
        return (
            f"is truncated: {beyond} of its {len(directory.offsets)} {kind} lie beyond the end of "
            "the file"
        )
    order = np.lexsort((ends, starts))
    starts, ends = starts[order], ends[order]
    same = (starts[1:] == starts[:-1]) & (ends[1:] == ends[:-1])  # a blank tile stored once
    if (~same & (starts[1:] < np.maximum.accumulate(ends)[:-1])).any():
        return "has tiles that overlap in the file"
    return ""
