"""Read DICOM slides: frames of JPEG directly, other encodings with OpenSlide or wsidicom.

The direct reader decodes strictly: any warning of libjpeg counts as damage, where OpenSlide fills
what is lost with other pixels. Its pixels are otherwise identical to OpenSlide's.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from parfocal.cost import CostMeter
from parfocal.slide.errors import SlideError
from parfocal.slide.readers.dicom import DicomFile, Instance, dicom_instances
from parfocal.slide.readers.dicom_checks import (
    JPEG_BASELINE,
    check_series,
    is_decoded_by_openslide,
)
from parfocal.slide.readers.dicom_frames import Frames, find_frames, first_frame, join_items
from parfocal.slide.readers.dicom_header import DicomHeader
from parfocal.slide.readers.openslide import OpenSlideScan
from parfocal.slide.readers.scan import Level, Metadata, Region, Scan, compute_levels, mean_mpp
from parfocal.slide.readers.tiff_pixels import Samples, SpareBytes, jpeg_decoder
from parfocal.slide.readers.tiled_level import TiledLevel
from parfocal.slide.readers.tiled_tiff import TiledTiffScan
from parfocal.slide.readers.wsi_dicom import MPP_SOURCE, WsiDicomScan
from parfocal.slide.sources.local import LocalSource
from parfocal.slide.sources.source import ByteSource

IS_RGB = {"YBR_FULL_422": False, "YBR_FULL": False, "RGB": True}  # by PhotometricInterpretation
HEAD_BYTES = 2**16  # of a frame, in which the headers of its JPEG image are looked for
# Markers of a JPEG image, and the bytes of their content up to what is read.
MARKER, START_OF_SCAN, APP0, APP14 = 0xFF, 0xDA, 0xE0, 0xEE
START_OF_FRAME, FRAME_BYTES = (0xC0, 0xC1, 0xC2), 6
ADOBE_BYTES = 12


def open_dicom(file: Path, cost_meter: CostMeter) -> Scan:
    """Open the DICOM slide that a file belongs to.

    Args:
        file: any file of the series.
        cost_meter: counts the bytes of the frames that are read directly.

    Raises:
        SlideError: the slide is damaged, or is encoded in a way that is not decoded.
    """
    levels = check_series(file)
    if all(is_direct(level.header) for level in levels) and all(map(_has_colors, levels)):
        return _open_files(levels, cost_meter)
    if is_decoded_by_openslide(levels):
        return OpenSlideScan(file)
    return WsiDicomScan(dicom_instances(file))


class TiledDicomScan:
    """A DICOM slide of JPEG frames, with one instance for each level.

    Args:
        headers: headers of the levels, sharpest first.
        open_level: opens the instance of a level when it is first read, by its number.
        sources: the bytes of all files of the series, for its fingerprint; none if they are not
            known.
        close: closes what `open_level` does not open; None for nothing.
    """

    def __init__(
        self,
        headers: Sequence[DicomHeader],
        open_level: Callable[[int], TiledTiffScan],
        *,
        sources: Sequence[ByteSource] = (),
        close: Callable[[], None] | None = None,
    ) -> None:
        self.sources = tuple(sources)
        self.levels: tuple[Level, ...] = compute_levels([header.size for header in headers])
        x, y = headers[0].sides_um or (None, None)
        mpp, source = mean_mpp(x, y, source=MPP_SOURCE)
        power = headers[0].objective_power
        self.metadata = Metadata("dicom", mpp, source, power, headers[0].sides_um)
        self._open_level, self._close = open_level, close
        self._scans: dict[int, TiledTiffScan] = {}

    def read_level(
        self, level: int, x: int, y: int, width: int, height: int
    ) -> UInt8[np.ndarray, "height width 3"]:
        """Read stored pixels; see `Scan.read_level`."""
        return self._scan(level).read_level(0, x, y, width, height)

    @property
    def spare_tiles(self) -> int:
        """Number of frames with spare bytes before their end that have been read."""
        return sum(scan.spare_tiles for scan in self._scans.values())

    @property
    def reads_ahead(self) -> bool:
        """Whether the instances are remote, or on a slow disk."""
        return any(scan.reads_ahead for scan in self._scans.values())

    def read_ahead(self, level: int, regions: Sequence[Region]) -> int:
        """Start fetching the frames of regions; see `ReadsAhead`."""
        return self._scan(level).read_ahead(0, regions)

    def cancel(self) -> None:
        """Let reads that wait in other threads fail at once."""
        for scan in tuple(self._scans.values()):
            scan.cancel()

    def close(self) -> None:
        """Close the instances."""
        for level in tuple(self._scans):
            self._scans.pop(level).close()
        if self._close is not None:
            self._close()

    def _scan(self, level: int) -> TiledTiffScan:
        """Return the scan of one level, which it has as its level 0."""
        scan = self._scans.get(level)
        if scan is None:  # without a lock, which a fork could copy locked
            scan = self._scans.setdefault(level, self._open_level(level))
        return scan


def _open_files(files: Sequence[DicomFile], cost_meter: CostMeter) -> TiledDicomScan:
    """Open the files of the levels, sharpest first."""

    def open_level(number: int) -> TiledTiffScan:
        file = files[number]
        source = LocalSource(file.path, cost_meter)
        cost_meter.set_file_bytes(sum(each.path.stat().st_size for each in files))
        tiles = tiled_level(file.header, find_frames(file), join_items)
        return TiledTiffScan(file.path, [tiles], Metadata("dicom"), source)

    return TiledDicomScan([file.header for file in files], open_level)


def tiled_level(
    header: DicomHeader, frames: Frames, jpeg_of: Callable[[bytes], bytes]
) -> TiledLevel:
    """Build a level of JPEG frames.

    Args:
        header: header of its instance.
        frames: where the frames lie in its source.
        jpeg_of: returns the JPEG image of a frame, from what the source holds; raises ValueError.
    """
    spare = SpareBytes(set())
    shape = header.tile_size[1], header.tile_size[0]
    decode_jpeg = jpeg_decoder(
        lambda _: shape, 3, spare, is_rgb=IS_RGB.get(header.photometric, False)
    )

    def decode(encoded: bytes, index: int) -> Samples:
        return decode_jpeg(jpeg_of(encoded), index)

    return TiledLevel(
        size=header.size,
        tile_size=header.tile_size,
        offsets=frames.offsets,
        byte_counts=frames.byte_counts,
        decode=decode,
        planes=1,
        convert=None,
        spare=spare,
    )


def is_direct(header: DicomHeader) -> bool:
    """Return whether a level consists of JPEG frames in the order of its tiles, all stored."""
    is_whole = header.is_tiled_full and not header.is_part
    is_single = (header.planes, header.paths) == (1, 1)
    is_color = header.samples == 3 and header.bits == (8, 8) and header.photometric in IS_RGB
    is_stored = header.pixels is not None and header.pixels.length is None
    return header.syntax_uid == JPEG_BASELINE and is_whole and is_single and is_color and is_stored


def _has_colors(level: DicomFile) -> bool:
    """Return whether the JPEG data is decoded in the color space that the header says.

    Raises:
        SlideError: the data contradicts the header.
    """
    return has_colors(level, first_frame(level, HEAD_BYTES))


def has_colors(level: Instance, jpeg: bytes) -> bool:
    """Return whether a JPEG image is decoded in the color space that the header says.

    Args:
        level: the instance that the image belongs to.
        jpeg: the image, or its first bytes.

    Raises:
        SlideError: the image contradicts the header.
    """
    photometric = level.header.photometric
    is_rgb = IS_RGB[photometric]
    components, is_jfif, is_adobe_rgb = _read_colors(jpeg)
    if components not in (0, 3) or is_adobe_rgb not in (None, is_rgb):
        found = (
            f"{components} components" if components != 3 else "RGB" if is_adobe_rgb else "YCbCr"
        )
        raise SlideError(
            f"{level.name}: the DICOM header says {photometric}, but the JPEG data is {found}. "
            "Export it again from its source."
        )
    return not (is_rgb and is_jfif)  # libjpeg takes an image with a JFIF header for YCbCr


def _read_colors(jpeg: bytes) -> tuple[int, bool, bool | None]:
    """Read what the headers of a JPEG image say about its colors.

    Returns:
        The number of components, 0 if it was not found; whether there is a JFIF header; and
        whether the Adobe marker says RGB, None if there is none.
    """
    components, is_jfif, is_rgb, position = 0, False, None, 2
    while position + 4 <= len(jpeg) and jpeg[position] == MARKER:
        code = jpeg[position + 1]
        content = jpeg[position + 4 : position + 2 + int.from_bytes(jpeg[position + 2 :][:2])]
        is_jfif |= code == APP0 and content.startswith(b"JFIF")
        if code == APP14 and content.startswith(b"Adobe") and len(content) >= ADOBE_BYTES:
            is_rgb = content[ADOBE_BYTES - 1] == 0
        if code in START_OF_FRAME and len(content) >= FRAME_BYTES:
            components = content[FRAME_BYTES - 1]
        if code == START_OF_SCAN:
            break
        position += 4 + len(content) if content else 4
    return components, is_jfif, is_rgb
