"""Check the files of a Hamamatsu VMS or VMU slide before OpenSlide opens it.

The `.vms` file names JPEG images that lie side by side, and a small image of the whole; a `.vmu`
file names uncompressed images (NGR).
"""

import struct
from pathlib import Path

from parfocal.slide.readers.ini import present_file, read_ini, whole_number

VMS, VMU = "Virtual Microscope Specimen", "Uncompressed Virtual Microscope Specimen"
MAX_COLUMNS = 1000
MAX_SIDE_PX = 2**21
TAIL_BYTES = 4096  # in which a JPEG image ends
HEAD_BYTES = 2**20  # in which its headers end
START_OF_IMAGE, END_OF_IMAGE = b"\xff\xd8", b"\xff\xd9"
MARKER, START_OF_FRAME, START_OF_SCAN = 0xFF, (0xC0, 0xC1), 0xDA
NGR_HEAD = struct.Struct("<2s2xiii8xi")  # magic, width, height, width of a column, position
NGR_PIXEL_BYTES = 6


def check_vms(path: Path) -> list[Path]:
    """Check the files of a VMS or VMU slide.

    Returns:
        The files of the slide.

    Raises:
        ValueError: a file is missing or truncated, or cannot be what it should be.
        OSError: a file cannot be read.
    """
    ini = read_ini(path)
    section = VMS if VMS in ini else VMU
    values = ini.get(section, {})
    cells = 1
    if section == VMS:
        for key in ("NoJpegColumns", "NoJpegRows"):
            cells *= whole_number(ini, section, key, low=1, high=MAX_COLUMNS)
    names = [
        value
        for key, value in values.items()
        if key.startswith("ImageFile") and _layer(key.removeprefix("ImageFile")) == 0
    ]
    if len(names) != cells:
        raise ValueError(f"{path.name} names {len(names)} images, but needs {cells}")
    images = [present_file(path.parent, name) for name in (*names, values.get("MapFile", ""))]
    for image in images:
        _check_jpeg(image) if section == VMS else _check_ngr(image)
    return [path, *images]


def _layer(suffix: str) -> int:
    """Return the depth of an image: `(z,x,y)` and `(z)` have one, `` and `(x,y)` do not."""
    parts = suffix.strip("()").split(",")
    text = parts[0].strip() if len(parts) in (1, 3) else ""
    return int(text) if text.isdecimal() else 0


def _check_jpeg(path: Path) -> None:
    """Check that a JPEG image has headers, a plausible size and an end."""
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
        file.seek(max(0, path.stat().st_size - TAIL_BYTES))
        tail = file.read()
    if not head.startswith(START_OF_IMAGE):
        raise ValueError(f"its file {path.name} is no JPEG image")
    size, position = None, 2
    while position + 4 <= len(head) and head[position] == MARKER:
        code = head[position + 1]
        if code == START_OF_SCAN:
            break
        if code in START_OF_FRAME and position + 10 <= len(head):
            size = struct.unpack_from(">BHHB", head, position + 4)
        position += 2 + int.from_bytes(head[position + 2 : position + 4])
    if size is None or size[0] != 8 or size[3] != 3 or not size[1] * size[2]:
        raise ValueError(f"the headers of its JPEG image {path.name} are damaged")
    if END_OF_IMAGE not in tail:
        raise ValueError(f"its JPEG image {path.name} is truncated")


def _check_ngr(path: Path) -> None:
    """Check the size of an uncompressed image."""
    with path.open("rb") as file:
        head = file.read(NGR_HEAD.size)
    if len(head) < NGR_HEAD.size:
        raise ValueError(f"its image {path.name} is truncated")
    magic, width, height, column, start = NGR_HEAD.unpack(head)
    if magic != b"GN" or not (0 < width <= MAX_SIDE_PX and 0 < height <= MAX_SIDE_PX):
        raise ValueError(f"the header of its image {path.name} is damaged")
    if column <= 0 or width % column or start <= 0:
        raise ValueError(f"its image {path.name} has columns of {column} of {width} px")
    if start + width * height * NGR_PIXEL_BYTES > path.stat().st_size:
        raise ValueError(f"its image {path.name} of {width} x {height} px is truncated")
