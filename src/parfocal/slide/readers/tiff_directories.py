"""The directories of a TIFF file, read once by tifffile right after opening.

A directory describes one image: its size, how its pixels are stored, and where. Nearly every slide
format is TIFF inside. Directories and pixels may lie anywhere in the file, so a truncated copy is
recognized by what should lie beyond its end.
"""

import io
import logging
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from struct import Struct, error, unpack

import numpy as np
from jaxtyping import Bool, Int64
from tifffile import (
    COMPRESSION,
    ORIENTATION,
    PHOTOMETRIC,
    PLANARCONFIG,
    TiffFile,
    TiffFrame,
    TiffPage,
)

from parfocal.cost import CostMeter
from parfocal.slide.errors import SlideError
from parfocal.slide.readers.tiff_long_arrays import (
    OFFSET_TAGS,
    Arrays,
    FileWithoutArrays,
    find_long_arrays,
)
from parfocal.slide.sources.local import LocalSource
from parfocal.slide.sources.source import ByteSource
from parfocal.slide.sources.url import SlidePath

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # classic TIFF and BigTIFF, both byte orders
LONG_TAGS = (270, 320, 347)  # ImageDescription, ColorMap, JPEGTables
WHOLE_NUMBERS = (3, 4, 16)  # SHORT, LONG, LONG8
ONE, EACH_SAMPLE, ANY = "one", "one or one for each sample", "any"
# Types and numbers of values of the tags that pixels and resolution depend on. tifffile leaves out
# a tag that it cannot read, as if the file did not have it.
TAGS = {
    **dict.fromkeys((254, 255, 256, 257, 259, 262, 266, 274, 277, 278), (WHOLE_NUMBERS, ONE)),
    **dict.fromkeys((284, 296, 317, 322, 323), (WHOLE_NUMBERS, ONE)),
    **dict.fromkeys((258, 338, 339), (WHOLE_NUMBERS, EACH_SAMPLE)),
    **dict.fromkeys((273, 279, 324, 325), (WHOLE_NUMBERS, ANY)),
    **dict.fromkeys((282, 283), ((5, 11, 12), ONE)),  # RATIONAL, FLOAT, DOUBLE
    270: ((1, 2, 7), ANY),  # BYTE, ASCII, UNDEFINED
    320: (WHOLE_NUMBERS, ANY),
    330: ((4, 13, 16, 18), ANY),  # LONG, IFD, LONG8, IFD8
    347: ((1, 7), ANY),
}
READ_BYTES = 2**13
START_OF_IMAGE = b"\xff\xd8"  # of JPEG
JFIF, JFIF_POSITION = b"JFIF", 6
REQUIRED_TAGS = {256, 257}  # ImageWidth and ImageLength
# tifffile raises these for damaged tags; TiffFileError is a ValueError.
DAMAGE = (ArithmeticError, LookupError, MemoryError, OSError, TypeError, ValueError, error)
# tifffile logs unusual tags. The messages are for programs that configure logging.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


@dataclass(frozen=True, eq=False)
class TiffDirectory:
    """One directory of a TIFF file.

    Args:
        page: the tags, as read by tifffile. Its file is closed.
        has_jfif: whether its first tile is a JPEG image with a JFIF header, if nothing is deferred.
        reduced: directories of the smaller images below this one (SubIFDs).
        deferred: positions and lengths of tiles that are read when they are needed.
    """

    page: TiffPage
    has_jfif: bool
    reduced: "tuple[TiffDirectory, ...]"
    deferred: Arrays

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the image in pixels."""
        return self.page.imagewidth, self.page.imagelength

    @property
    def is_tiled(self) -> bool:
        """Whether the image is stored in tiles; if False, in strips of whole rows."""
        return bool(self.page.is_tiled)

    @property
    def tile_size(self) -> tuple[int, int]:
        """Width and height of a stored tile or strip in pixels."""
        if self.is_tiled:
            return self.page.tilewidth, self.page.tilelength
        rows = self.page.rowsperstrip or self.size[1]
        return self.size[0], min(rows, self.size[1])

    @property
    def tile_counts(self) -> tuple[int, int]:
        """Number of columns and rows of tiles."""
        (width, height), (tile_width, tile_height) = self.size, self.tile_size
        return -(-width // tile_width), -(-height // tile_height)

    @property
    def planes(self) -> int:
        """Number of planes that are stored one after the other: 1, or one for each sample."""
        separate = self.page.planarconfig == PLANARCONFIG.SEPARATE
        return self.page.samplesperpixel if separate else 1

    @property
    def samples(self) -> int:
        """Number of samples per pixel."""
        return self.page.samplesperpixel

    @property
    def bits(self) -> int:
        """Number of bits per sample."""
        return self.page.bitspersample

    @property
    def orientation(self) -> int:
        """How the picture lies, from 1 to 8 as in TIFF and EXIF; 1 is upright."""
        return int(self.page.tags.valueof("Orientation", ORIENTATION.TOPLEFT))

    @property
    def description(self) -> str:
        """The ImageDescription; empty if there is none."""
        return self.page.description

    @property
    def is_subsampled(self) -> bool:
        """Whether color is stored with fewer pixels than brightness."""
        return bool(self.page.is_subsampled)

    @property
    def is_reduced(self) -> bool:
        """Whether the tags call it a smaller version of another image."""
        return bool(self.page.subfiletype & 1)

    @property
    def is_mask(self) -> bool:
        """Whether the tags call it a mask of another image."""
        return bool(self.page.subfiletype & 4)

    @property
    def is_jpeg(self) -> bool:
        """Whether the tiles are JPEG images."""
        return bool(self.page.compression == COMPRESSION.JPEG)

    @property
    def is_rgb(self) -> bool:
        """Whether the tags declare RGB, not YCbCr or any other color space."""
        return bool(self.page.photometric == PHOTOMETRIC.RGB)

    @cached_property
    def is_jfif(self) -> bool:
        """Whether its first tile is a JPEG image with a JFIF header."""
        if not self.deferred:
            return self.has_jfif
        source = next(iter(self.deferred.values())).source
        return source.read(int(self.offsets[0]) + JFIF_POSITION, len(JFIF)) == JFIF

    @property
    def stored_counts(self) -> tuple[int, int]:
        """Number of positions and of lengths of tiles or strips."""
        if not self.deferred:
            return len(self.offsets), len(self.byte_counts)
        counts = {tag in OFFSET_TAGS: array.count for tag, array in self.deferred.items()}
        return (
            counts.get(True) or np.size(self.page.dataoffsets),
            counts.get(False) or np.size(self.page.databytecounts),
        )

    @cached_property
    def offsets(self) -> Int64[np.ndarray, " n"]:
        """Position in the file of each tile or strip, row by row."""
        for tag, array in self.deferred.items():
            if tag in OFFSET_TAGS:
                return array.read()
        return np.atleast_1d(np.array(self.page.dataoffsets, dtype=np.int64))

    @cached_property
    def byte_counts(self) -> Int64[np.ndarray, " n"]:
        """Length in bytes of each tile or strip."""
        for tag, array in self.deferred.items():
            if tag not in OFFSET_TAGS:
                return array.read()
        return np.atleast_1d(np.array(self.page.databytecounts, dtype=np.int64))

    @property
    def end(self) -> int:
        """Position in the file where its last tile or strip ends, or that of an image below it.

        Raises:
            ValueError: the positions or the lengths are missing.
        """
        if len(self.offsets) == 0 or len(self.offsets) != len(self.byte_counts):
            raise ValueError("the positions of its tiles are missing")
        return max(
            int((self.offsets + self.byte_counts).max()),
            *(directory.end for directory in self.reduced),
            0,
        )

    @cached_property
    def is_stored(self) -> Bool[np.ndarray, " n"]:
        """Whether each tile or strip is stored; a writer may leave out blank tiles."""
        return (self.offsets > 0) & (self.byte_counts > 0)


@dataclass(frozen=True)
class Extent:
    """Size of a TIFF file.

    Args:
        width: width of the first image in pixels.
        height: height of the first image in pixels.
        required_bytes: number of bytes that the file must have to hold all its images.
    """

    width: int
    height: int
    required_bytes: int


def is_tiff(source: ByteSource) -> bool:
    """Return whether a file begins with the signature of a TIFF."""
    return source.read(0, 4) in SIGNATURES


def read_directories(path: SlidePath, source: ByteSource) -> tuple[TiffDirectory, ...]:
    """Read all directories of a TIFF file.

    Of a remote file, long lists of positions and lengths of tiles are read when they are needed.

    Args:
        path: the file, for messages.
        source: its bytes.

    Raises:
        SlideError: the file is not a TIFF, or its directories are truncated or damaged.
    """
    if not is_tiff(source):
        raise SlideError(f"{path.name}: not a TIFF file. Download or export it again.")
    arrays = find_long_arrays(source) if source.is_remote else {}
    file = FileWithoutArrays(
        source, (array for directory in arrays.values() for array in directory.values())
    )
    try:
        # tifffile takes a raw file for text, and makes many small reads.
        with TiffFile(io.BufferedReader(file, READ_BYTES), name=path.name) as tiff:
            directories = _read_chain(tiff.pages, set(), arrays)
            is_complete = _chain_ends(tiff)
    except DAMAGE as error:
        raise file.error or _damaged(path) from error
    if file.error is not None:  # tifffile takes it for damage of a single tag
        raise file.error
    if not is_complete:
        raise _damaged(path)
    return directories


def read_extent(path: Path) -> Extent:
    """Read the size of the first image of a TIFF file, and the length that the file must have.

    Raises:
        SlideError: the file is not a TIFF, or its directories are truncated or damaged.
    """
    with closing(LocalSource(path, CostMeter())) as source:
        directories = read_directories(path, source)
    try:
        required = max(directory.end for directory in directories)
    except ValueError as error:
        raise _damaged(path) from error
    return Extent(*directories[0].size, required)


def _read_chain(
    pages: Iterable[TiffPage | TiffFrame], positions: set[int], arrays: dict[int, Arrays]
) -> tuple[TiffDirectory, ...]:
    """Read a chain of directories, and the chains of smaller images below each.

    tifffile would follow a chain that leads back into itself forever.

    Args:
        pages: the chain.
        positions: positions of the directories read so far; those of this chain are added.
        arrays: arrays that are not read now, by the position of the directory.
    """
    directories = []
    for page in (frame.aspage() for frame in pages):
        if page.offset in positions:
            raise ValueError("the directories lead back to an earlier one")
        positions.add(page.offset)
        _check_tags(page)
        reduced = _read_chain(page.pages or (), positions, arrays)
        for code in LONG_TAGS:
            page.tags.valueof(code)  # tifffile reads long values when they are first used
        deferred = arrays.get(page.offset, {})
        has_jfif = bool(not deferred and page.is_jfif)
        directories.append(TiffDirectory(page, has_jfif, reduced, deferred))
    return tuple(directories)


def _check_tags(page: TiffPage) -> None:
    """Raise ValueError if a tag of `TAGS` has an impossible type or number of values."""
    file, format_ = page.parent.filehandle, page.parent.tiff
    file.seek(page.offset)
    (number,) = unpack(format_.tagnoformat, file.read(format_.tagnosize))
    entries = file.read(number * format_.tagsize)
    start = Struct(f"{format_.byteorder}HH{'Q' if format_.is_bigtiff else 'I'}")
    codes = set()
    for position in range(0, len(entries), format_.tagsize):
        code, kind, count = start.unpack_from(entries, position)
        codes.add(code)
        kinds, allowed = TAGS.get(code, ((kind,), ANY))
        is_one = count == 1 or allowed == ANY
        if kind not in kinds or not (is_one or (allowed == EACH_SAMPLE and 1 <= count <= 64)):
            raise ValueError(f"tag {code} has {count} values of type {kind}")
        if code in TAGS and code not in page.tags:
            raise ValueError(f"tag {code} cannot be read")
    tables = page.jpegtables
    if tables is not None and not (isinstance(tables, bytes) and tables.startswith(START_OF_IMAGE)):
        raise ValueError("the JPEG tables are damaged")
    if not codes >= REQUIRED_TAGS:
        raise ValueError("the size of an image is missing")


def _chain_ends(tiff: TiffFile) -> bool:
    """Return whether the last directory is marked as the last; tifffile stops at any damage."""
    position = tiff.pages.next_page_offset
    if position is None or len(tiff.pages) == 0:
        return False
    tiff.filehandle.seek(position)
    following = tiff.filehandle.read(tiff.tiff.offsetsize)
    return len(following) == tiff.tiff.offsetsize and not any(following)


def _damaged(path: SlidePath) -> SlideError:
    return SlideError(
        f"{path.name}: the directories of this TIFF are truncated or damaged. Copy the file again "
        "from its source."
    )
