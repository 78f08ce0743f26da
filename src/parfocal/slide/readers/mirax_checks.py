"""Check the files of a MIRAX slide before OpenSlide opens it.

Beside `NAME.mrxs` lies the folder `NAME` with Slidedat.ini, an index, and files with the tiles of
all levels.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int32

from parfocal.slide.readers.ini import Ini, present_file, read_ini, whole_number

SLIDEDAT = "Slidedat.ini"
INDEX_VERSION = b"01.02"
ZOOM_LEVELS = "Slide zoom level"
FORMATS = ("JPEG", "PNG", "BMP24")
MAX_IMAGES = 2**24  # camera positions times divisions
MAX_FILES = 10_000
MAX_LEVELS = 32
MAX_SIDE = 2**16
MAX_TILE_PX = 2**24
MAX_INDEX_BYTES = 2**28


@dataclass(frozen=True)
class MiraxLayout:
    """What Slidedat.ini says.

    Args:
        slide_id: identity of the slide, which the index repeats.
        images: number of columns and rows of images at level 0.
        levels: number of levels.
        index: the index.
        files: files with tiles.
    """

    slide_id: bytes
    images: tuple[int, int]
    levels: int
    index: Path
    files: tuple[Path, ...]


def check_mirax(path: Path) -> list[Path]:
    """Check the files of a MIRAX slide.

    Returns:
        The files of the slide.

    Raises:
        ValueError: a file is missing or truncated, or contradicts the others.
        OSError: a file cannot be read.
    """
    folder = path.with_suffix("")
    layout = _read_layout(folder, read_ini(folder / SLIDEDAT))
    with layout.index.open("rb") as file:
        content = file.read(MAX_INDEX_BYTES + 1)
    if len(content) > MAX_INDEX_BYTES:
        raise ValueError(f"{layout.index.name} has more than {MAX_INDEX_BYTES // 2**20} MiB")
    try:
        _check_index(content, layout)
    except struct.error:
        raise ValueError(f"{layout.index.name} is truncated") from None
    return [path, folder / SLIDEDAT, layout.index, *layout.files]


def _read_layout(folder: Path, ini: Ini) -> MiraxLayout:
    general, hierarchy = "GENERAL", "HIERARCHICAL"
    images = (
        whole_number(ini, general, "IMAGENUMBER_X", low=1, high=MAX_SIDE),
        whole_number(ini, general, "IMAGENUMBER_Y", low=1, high=MAX_SIDE),
    )
    if images[0] * images[1] > MAX_IMAGES:
        raise ValueError(f"{SLIDEDAT} says {images[0]} x {images[1]} images")
    if "CameraImageDivisionsPerSide" in ini[general]:
        whole_number(ini, general, "CameraImageDivisionsPerSide", low=1, high=MAX_SIDE)
    whole_number(ini, hierarchy, "HIER_COUNT", low=1, high=MAX_FILES)
    whole_number(ini, hierarchy, "NONHIER_COUNT", low=0, high=MAX_FILES)
    if ini[hierarchy].get("HIER_0_NAME") != ZOOM_LEVELS:
        raise ValueError(f"{SLIDEDAT} names no zoom levels")
    levels = whole_number(ini, hierarchy, "HIER_0_COUNT", low=1, high=MAX_LEVELS)
    for level in range(levels):
        _check_level(ini, ini[hierarchy].get(f"HIER_0_VAL_{level}_SECTION", ""))
    count = whole_number(ini, "DATAFILE", "FILE_COUNT", low=1, high=MAX_FILES)
    return MiraxLayout(
        slide_id=ini[general].get("SLIDE_ID", "").encode(),
        images=images,
        levels=levels,
        index=present_file(folder, ini[hierarchy].get("INDEXFILE", "")),
        files=tuple(
            present_file(folder, ini["DATAFILE"].get(f"FILE_{number}", ""))
            for number in range(count)
        ),
    )


def _check_level(ini: Ini, section: str) -> None:
    width, height = (
        whole_number(ini, section, f"DIGITIZER_{side}", low=1, high=MAX_SIDE)
        for side in ("WIDTH", "HEIGHT")
    )
    if width * height > MAX_TILE_PX:
        raise ValueError(f"[{section}] of {SLIDEDAT} says tiles of {width} x {height} px")
    whole_number(ini, section, "IMAGE_CONCAT_FACTOR", low=0, high=MAX_LEVELS)
    if ini[section].get("IMAGE_FORMAT") not in FORMATS:
        found = ini[section].get("IMAGE_FORMAT", "")[:40]
        raise ValueError(f"IMAGE_FORMAT of [{section}] is {found!r}, not {', '.join(FORMATS)}")


def _check_index(content: bytes, layout: MiraxLayout) -> None:
    """Check that the index lists tiles that lie in the files."""
    name = layout.index.name
    if not content.startswith(INDEX_VERSION):
        raise ValueError(f"{name} does not have version {INDEX_VERSION.decode()}")
    if not content.startswith(INDEX_VERSION + layout.slide_id):
        raise ValueError(f"{name} is that of another slide")
    (root,) = struct.unpack_from("<i", content, len(INDEX_VERSION) + len(layout.slide_id))
    lengths = np.array([file.stat().st_size for file in layout.files], dtype=np.int64)
    for level in range(layout.levels):
        (start,) = struct.unpack_from("<i", content, _inside(root, content) + 4 * level)
        tiles = _read_tiles(content, start, name)
        if level == 0 and not len(tiles):
            raise ValueError(f"{name} lists no tile of level 0")
        _check_tiles(tiles, lengths, layout, level)


def _read_tiles(content: bytes, start: int, name: str) -> Int32[np.ndarray, "n 4"]:
    """Return image number, offset, length and file of each tile of a level."""
    zero, following = struct.unpack_from("<ii", content, _inside(start, content))
    if zero != 0:
        raise ValueError(f"{name} is damaged: a list of tiles does not begin with 0")
    pages: list[Int32[np.ndarray, "n 4"]] = []
    visited: set[int] = set()
    while following or not visited:
        if following in visited:
            raise ValueError(f"{name} is damaged: a list of tiles leads back to itself")
        visited.add(following)
        count, after = struct.unpack_from("<ii", content, _inside(following, content))
        if count < 0 or following + 8 + 16 * count > len(content):
            raise ValueError(f"{name} is damaged or truncated: a list of {count} tiles")
        pages.append(np.frombuffer(content, "<i4", 4 * count, following + 8).reshape(count, 4))
        following = after
    return np.concatenate(pages).astype(np.int32)


def _check_tiles(
    tiles: Int32[np.ndarray, "n 4"],
    lengths: Sequence[int] | np.ndarray,
    layout: MiraxLayout,
    level: int,
) -> None:
    images, offsets, sizes, files = tiles.T.astype(np.int64)
    is_possible = (images >= 0) & (images < layout.images[0] * layout.images[1])
    is_possible &= (offsets >= 0) & (sizes >= 0) & (files >= 0) & (files < len(layout.files))
    if not is_possible.all():
        raise ValueError(f"{layout.index.name} is damaged: level {level} has an impossible tile")
    beyond = offsets + sizes > np.asarray(lengths)[files]
    if beyond.any():
        first = layout.files[int(files[np.argmax(beyond)])].name
        raise ValueError(
            f"{first} is truncated: {int(beyond.sum())} of {len(tiles)} tiles of level {level} lie "
            "beyond the end of their file"
        )


def _inside(position: int, content: bytes) -> int:
    if not 0 <= position < len(content):
        raise ValueError(f"its index is damaged: position {position} lies outside of it")
    return position
