"""Read DICOM slides: frames of JPEG directly, other encodings with OpenSlide or wsidicom.

The direct reader decodes strictly: any warning of libjpeg counts as damage, where OpenSlide fills
what is lost with other pixels. Its pixels are otherwise identical to OpenSlide's.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from parfocal.cost import CostMeter
from parfocal.slide.errors import SlideError
from parfocal.slide.readers.dicom import DicomFile, dicom_instances
from parfocal.slide.readers.dicom_checks import (
    JPEG_BASELINE,
    check_series,
    is_decoded_by_openslide,
)
from parfocal.slide.readers.dicom_frames import Frames, find_frames, first_frame, join_items
from parfocal.slide.readers.dicom_header import DicomHeader
from parfocal.slide.readers.openslide import OpenSlideScan
from parfocal.slide.readers.scan import Level, Metadata, Scan, compute_levels, mean_mpp
from parfocal.slide.readers.tiff_pixels import Decoder, Samples, SpareBytes, jpeg_decoder
from parfocal.slide.readers.tiled_level import TiledLevel
from parfocal.slide.readers.tiled_tiff import TiledTiffScan
from parfocal.slide.readers.wsi_dicom import MPP_SOURCE, WsiDicomScan
from parfocal.slide.sources.local import LocalSource

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
    if all(_is_direct(level.header) for level in levels) and all(map(_has_colors, levels)):
        return TiledDicomScan(levels, cost_meter)
    if is_decoded_by_openslide(levels):
        return OpenSlideScan(file)
    return WsiDicomScan(dicom_instances(file))


class TiledDicomScan:
    """A DICOM slide of JPEG frames, one file for each level.

    Args:
        files: files of the levels, sharpest first.
        cost_meter: counts the bytes of the frames that are read.
    """

    def __init__(self, files: Sequence[DicomFile], cost_meter: CostMeter) -> None:
        self._files, self._cost_meter = tuple(files), cost_meter
        first = self._files[0].header
        self.levels: tuple[Level, ...] = compute_levels([file.header.size for file in files])
        x, y = first.sides_um or (None, None)
        mpp, source = mean_mpp(x, y, source=MPP_SOURCE)
        self.metadata = Metadata("dicom", mpp, source, first.objective_power, first.sides_um)
        self._scans: dict[int, TiledTiffScan] = {}

    def read_level(
        self, level: int, x: int, y: int, width: int, height: int
    ) -> UInt8[np.ndarray, "height width 3"]:
        """Read stored pixels; see `Scan.read_level`."""
        scan = self._scans.get(level)
        if scan is None:  # without a lock, which a fork could copy locked
            scan = self._scans.setdefault(level, self._open(level))
        return scan.read_level(level, x, y, width, height)

    @property
    def spare_tiles(self) -> int:
        """Number of frames with spare bytes before their end that have been read."""
        return sum(scan.spare_tiles for scan in self._scans.values())

    def close(self) -> None:
        """Close the files."""
        for level in tuple(self._scans):
            self._scans.pop(level).close()

    def _open(self, number: int) -> TiledTiffScan:
        """Open the file of a level; the other levels of the result have no frames."""
        levels = [
            _tiled_level(file, has_frames=level == number) for level, file in enumerate(self._files)
        ]
        path = self._files[number].path
        source = LocalSource(path, self._cost_meter)
        self._cost_meter.set_file_bytes(sum(file.path.stat().st_size for file in self._files))
        return TiledTiffScan(path, levels, self.metadata, source)


def _tiled_level(file: DicomFile, *, has_frames: bool) -> TiledLevel:
    nothing = np.empty(0, dtype=np.int64)
    frames = find_frames(file) if has_frames else Frames(nothing, nothing)
    spare = SpareBytes(set())
    return TiledLevel(
        size=file.header.size,
        tile_size=file.header.tile_size,
        offsets=frames.offsets,
        byte_counts=frames.byte_counts,
        decode=_frame_decoder(file.header, spare),
        planes=1,
        convert=None,
        spare=spare,
    )


def _frame_decoder(header: DicomHeader, spare: SpareBytes) -> Decoder:
    shape = header.tile_size[1], header.tile_size[0]
    decode_jpeg = jpeg_decoder(
        lambda _: shape, 3, spare, is_rgb=IS_RGB.get(header.photometric, False)
    )

    def decode(encoded: bytes, index: int) -> Samples:
        return decode_jpeg(join_items(encoded), index)

    return decode


def _is_direct(header: DicomHeader) -> bool:
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
    photometric = level.header.photometric
    is_rgb = IS_RGB[photometric]
    components, is_jfif, is_adobe_rgb = _read_colors(first_frame(level, HEAD_BYTES))
    if components not in (0, 3) or is_adobe_rgb not in (None, is_rgb):
        found = (
            f"{components} components" if components != 3 else "RGB" if is_adobe_rgb else "YCbCr"
        )
        raise SlideError(
            f"{level.path.name}: the DICOM header says {photometric}, but the JPEG data is "
            f"{found}. Export it again from its source."
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
