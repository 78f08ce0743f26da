"""The headers of DICOM files: which of them form a slide, and whether OpenSlide can read it.

A slide is a series: one file for each level, all in one folder. Only the header up to the
description of single frames is read; OpenSlide reads the rest.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from parfocal.slide.errors import SlideError

PREAMBLE_BYTES = 128
SIGNATURE = b"DICM"
WHOLE_SLIDE_CLASS = "1.2.840.10008.5.1.4.1.1.77.1.6"
IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
# Transfer syntaxes that OpenSlide decodes: uncompressed, JPEG baseline, JPEG 2000.
OPENSLIDE_DECODES = (
    *(IMPLICIT, EXPLICIT, "1.2.840.10008.1.2.4.50"),
    *("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91"),
)
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
LONG_VALUES = tuple(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
UNDEFINED = 0xFFFFFFFF
FRAMES_BEGIN = 0x52009229  # the shared and the per-frame descriptions, then the pixels
MAX_ELEMENTS = 10_000  # of a header without the descriptions of frames
MAX_VALUE_BYTES = 1024
MAX_TILE_PX = 2**24
MAX_SIDE_PX = 2**21
MAX_FRAMES = 2**24
CODESTREAM = b"\xff\x4f\xff\x51"  # start of a JPEG 2000 image
CODING_STYLE = b"\xff\x52"
SEARCHED_BYTES = 2**22  # of a file, for its first JPEG 2000 image
TRANSFORMED = ("YBR_ICT", "YBR_RCT")
COPY = "Copy it again from its source."


@dataclass(frozen=True)
class DicomHeader:
    """What the header of a DICOM file says.

    Args:
        class_uid: kind of the file.
        series_uid: the series that it belongs to.
        syntax_uid: how its pixels are encoded.
        image_type: such as ORIGINAL, PRIMARY, VOLUME, NONE.
        tile_size: width and height of a frame in pixels.
        size: width and height of the image in pixels.
        frames: number of frames.
        photometric: name of the color space.
        is_tiled_full: whether every tile is stored, in order.
        is_part: whether the file holds a part of an image (a concatenation).
    """

    class_uid: str
    series_uid: str
    syntax_uid: str
    image_type: tuple[str, ...]
    tile_size: tuple[int, int]
    size: tuple[int, int]
    frames: int
    photometric: str
    is_tiled_full: bool
    is_part: bool

    @property
    def is_level(self) -> bool:
        """Whether the file holds a level of a slide, not its label or an overview."""
        return self.class_uid == WHOLE_SLIDE_CLASS and "VOLUME" in self.image_type[2:3]


def is_dicom(path: Path) -> bool:
    """Return whether a file has the signature of DICOM."""
    with path.open("rb") as file:
        file.seek(PREAMBLE_BYTES)
        return file.read(4) == SIGNATURE


def read_header(path: Path) -> DicomHeader:
    """Read the header of a DICOM file.

    Raises:
        SlideError: the header is damaged.
    """
    stat = path.stat()
    return _read_header(path, stat.st_size, stat.st_mtime_ns)


def dicom_instances(path: Path) -> list[Path]:
    """Return the files of a DICOM slide, sorted by name.

    Args:
        path: a file of the slide, or a folder that holds one slide.

    Raises:
        SlideError: the folder holds no DICOM slide or several, or a DICOM file is damaged.
    """
    folder = path if path.is_dir() else path.parent
    series: dict[str, list[Path]] = {}
    for file in _dicom_files(folder):
        header = read_header(file)
        if header.class_uid == WHOLE_SLIDE_CLASS:
            series.setdefault(header.series_uid, []).append(file)
    if not path.is_dir():
        return series.get(read_header(path).series_uid, [path])
    if len(series) == 1:
        return next(iter(series.values()))
    if series:
        names = ", ".join(files[0].name for files in series.values())
        raise SlideError(
            f"{folder}: this folder holds {len(series)} DICOM slides. Name one of {names}."
        )
    raise SlideError(
        f"{folder}: this folder holds no DICOM slide. Name slide files, such as {folder}/*.svs."
    )


def series_name(path: Path) -> str | None:
    """Return the name of the series that a DICOM file belongs to; None if it is its only file.

    A series is called like its folder, or by its UID if the folder holds other slides.
    """
    files = dicom_instances(path)
    if len(files) < 2:
        return None
    others = [
        file
        for file in _dicom_files(path.parent)
        if file not in files and read_header(file).class_uid == WHOLE_SLIDE_CLASS
    ]
    return read_header(path).series_uid if others else path.resolve().parent.name


def check_series(path: Path) -> bool:
    """Check that the slide that a DICOM file belongs to can be read.

    Returns:
        Whether OpenSlide can read it; if False, wsidicom can.

    Raises:
        SlideError: it is no slide, is damaged, or is encoded in a way that is not decoded.
    """
    if read_header(path).class_uid != WHOLE_SLIDE_CLASS:
        raise SlideError(
            f"{path.name}: a DICOM file that is not a whole-slide image. Choose another file."
        )
    files = dicom_instances(path)
    if not any(read_header(file).is_level for file in files):
        raise SlideError(
            f"{path.name}: the DICOM series holds a label or an overview, but no level of the "
            "slide. Copy all its files."
        )
    for file in files:
        header = read_header(file)
        if problem := _contradiction(header):
            raise SlideError(f"{file.name}: the DICOM header says {problem}. {COPY}")
        if header.is_level:
            _check_encoding(file, header)
    syntaxes = {read_header(file).syntax_uid for file in files if read_header(file).is_level}
    return syntaxes <= set(OPENSLIDE_DECODES)


def _contradiction(header: DicomHeader) -> str:
    """Return how a header contradicts itself; empty if it does not."""
    (tile_width, tile_height), (width, height) = header.tile_size, header.size
    if not 1 <= tile_width * tile_height <= MAX_TILE_PX:
        return f"tiles of {tile_width} x {tile_height} px"
    if not (1 <= width <= MAX_SIDE_PX and 1 <= height <= MAX_SIDE_PX):
        return f"an image of {width} x {height} px"
    if not 1 <= header.frames <= MAX_FRAMES:
        return f"{header.frames} tiles"
    tiles = -(-width // tile_width) * -(-height // tile_height)
    if header.is_tiled_full and not header.is_part and header.frames % tiles:
        return (
            f"{header.frames} tiles of {tile_width} x {tile_height} px, but {width} x {height} px "
            f"need {tiles}"
        )
    return ""


def _check_encoding(file: Path, header: DicomHeader) -> None:
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


def _is_transformed(file: Path) -> bool:
    """Return whether the first JPEG 2000 image of a file declares the color transform."""
    with file.open("rb") as opened:
        content = opened.read(SEARCHED_BYTES)
    start = content.find(CODESTREAM)
    style = content.find(CODING_STYLE, start) if start >= 0 else -1
    # Two bytes each of marker and length; style, progression, two of layers; then the transform.
    return style >= 0 and content[style + 8 : style + 9] == b"\1"


def _dicom_files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.is_file() and _may_be_dicom(file))


def _may_be_dicom(file: Path) -> bool:
    try:
        return is_dicom(file)
    except OSError:
        return False


@lru_cache(maxsize=4096)
def _read_header(path: Path, size: int, _changed: int) -> DicomHeader:
    try:
        with path.open("rb") as file:
            values = dict(_elements(file, size))
        return _parse(values)
    except (ArithmeticError, LookupError, ValueError, struct.error) as error:
        raise SlideError(
            f"{path.name}: the header of this DICOM file is damaged ({error}). {COPY}"
        ) from error


def _parse(values: dict[int, bytes]) -> DicomHeader:
    def text(tag: int) -> str:
        return values.get(tag, b"").decode("ascii", "replace").strip("\0 ")

    def number(tag: int) -> int:
        return int.from_bytes(values.get(tag, b"")[:4], "little")

    tile_size = number(0x00280011), number(0x00280010)
    size = number(0x00480006) or tile_size[0], number(0x00480007) or tile_size[1]
    return DicomHeader(
        class_uid=text(0x00080016),
        series_uid=text(0x0020000E),
        syntax_uid=text(0x00020010),
        image_type=tuple(part.strip() for part in text(0x00080008).split("\\")),
        tile_size=tile_size,
        size=size,
        frames=int(text(0x00280008) or 1),
        photometric=text(0x00280004),
        is_tiled_full=text(0x00209311) == "TILED_FULL",
        is_part=bool(text(0x00209161)),
    )


def _elements(file: BinaryIO, size: int) -> Iterator[tuple[int, bytes]]:
    """Return tag and value of each short element of a header."""
    file.seek(PREAMBLE_BYTES + len(SIGNATURE))
    syntax, is_explicit = EXPLICIT, True
    for _ in range(MAX_ELEMENTS):
        start = file.read(8)
        if len(start) < 8:
            return
        group, element = struct.unpack("<HH", start[:4])
        tag = group << 16 | element
        is_explicit = group == 2 or syntax != IMPLICIT
        if tag >= FRAMES_BEGIN:
            return
        length = _value_length(file, start, is_explicit=is_explicit)
        if length == UNDEFINED:
            _skip_sequence(file, is_explicit=is_explicit, size=size, depth=0)
            continue
        if file.tell() + length > size:
            raise ValueError(f"element {tag:08X} is longer than the file")
        if length > MAX_VALUE_BYTES:
            file.seek(length, 1)
            continue
        value = file.read(length)
        if tag == 0x00020010:
            syntax = value.decode("ascii", "replace").strip("\0 ")
        yield tag, value
    raise ValueError("it does not end")


def _value_length(file: BinaryIO, start: bytes, *, is_explicit: bool) -> int:
    """Return the length of the value of an element whose first eight bytes have been read."""
    if not is_explicit or start[:2] == b"\xfe\xff":  # items have no type
        return int(struct.unpack("<I", start[4:])[0])
    if start[4:6] in LONG_VALUES:
        return int(struct.unpack("<I", file.read(4))[0])
    return int(struct.unpack("<H", start[6:])[0])


def _skip_sequence(file: BinaryIO, *, is_explicit: bool, size: int, depth: int) -> None:
    """Skip the items of a sequence or the elements of an item, up to the mark of its end."""
    if depth > 32:
        raise ValueError("its sequences are nested too deeply")
    for _ in range(MAX_ELEMENTS):
        start = file.read(8)
        if len(start) < 8:
            raise ValueError("a sequence does not end")
        length = _value_length(file, start, is_explicit=is_explicit)
        if start[:4] in (b"\xfe\xff\xdd\xe0", b"\xfe\xff\x0d\xe0"):  # end of sequence, of item
            return
        if length == UNDEFINED:
            _skip_sequence(file, is_explicit=is_explicit, size=size, depth=depth + 1)
        elif file.tell() + length > size:
            raise ValueError("a sequence is longer than the file")
        else:
            file.seek(length, 1)
    raise ValueError("a sequence does not end")
