"""Read the scanners' formats and DICOM with OpenSlide.

Threads may share an OpenSlide handle, but a handle fails for good after one damaged tile, and must
not be used after a fork. So each process has a handle of its own, and a failed one is dropped.
"""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import openslide
from jaxtyping import UInt8
from openslide import OpenSlide, OpenSlideCache, OpenSlideError
from PIL import Image

from parfocal.slide.errors import DamagedRegionError, SlideError, one_line
from parfocal.slide.readers.dicom import dicom_instances
from parfocal.slide.readers.dicom_header import PREAMBLE_BYTES, SIGNATURE
from parfocal.slide.readers.openslide_checks import check_files
from parfocal.slide.readers.scan import Level, Metadata, compute_levels, mean_mpp
from parfocal.slide.readers.tiff_directories import SIGNATURES

# Loader workers may hold many slides open; 32 MiB is 128 decoded tiles for each.
CACHE_BYTES = 32 * 2**20


class OpenSlideScan:
    """A file opened by OpenSlide.

    Args:
        path: a file whose format OpenSlide supports.
        notes: sentences on what is unusual about the file.

    Raises:
        SlideError: the file is damaged, or OpenSlide cannot open it.
    """

    def __init__(self, path: Path, *, notes: tuple[str, ...] = ()) -> None:
        vendor = None if _is_checked(path) else self.vendor(path)
        if vendor is not None:
            check_files(path, vendor)
        self._path = path
        self._handles: dict[int, OpenSlide] = {}
        handle = self._handle()
        self.levels: tuple[Level, ...] = compute_levels(handle.level_dimensions)
        self.metadata = replace(_metadata(handle), notes=notes)
        background = handle.properties.get(openslide.PROPERTY_NAME_BACKGROUND_COLOR, "ffffff")
        self._background = f"#{background}"
        # OpenSlide takes a position in level-0 pixels and divides it by its own downsample.
        self._downsamples = handle.level_downsamples

    @staticmethod
    def detects(path: Path) -> bool:
        """Return whether OpenSlide supports the format of a file."""
        return OpenSlideScan.vendor(path) is not None

    @staticmethod
    def vendor(path: Path) -> str | None:
        """Return what OpenSlide calls the format of a file; None if it does not support it."""
        return OpenSlide.detect_format(path)

    def read_level(
        self, level: int, x: int, y: int, width: int, height: int
    ) -> UInt8[np.ndarray, "height width 3"]:
        """Read stored pixels; see `Scan.read_level`.

        Where a downsample is not a whole number, the region is up to half a level-0 pixel off.
        """
        downsample = self._downsamples[level]
        region = (round(x * downsample), round(y * downsample)), level, (width, height)
        handle = self._handle()
        try:
            return self._flatten(handle.read_region(*region))
        except OpenSlideError:
            # The handle is not closed, since another thread may be using it. That thread may also
            # have caused the error, so the region is read again with a handle that is not shared.
            if self._handles.get(os.getpid()) is handle:
                self._handles.pop(os.getpid(), None)
        with self._open() as fresh:
            try:
                return self._flatten(fresh.read_region(*region))
            except OpenSlideError as error:
                raise DamagedRegionError(
                    self._path,
                    (round(x * downsample), round(y * downsample)),
                    (width, height),
                    level,
                    one_line(error),
                ) from error

    def close(self) -> None:
        """Close the handle of this process."""
        handle = self._handles.pop(os.getpid(), None)
        if handle is not None:
            handle.close()

    def _handle(self) -> OpenSlide:
        """Return the handle of this process, without a lock that a fork could copy locked."""
        handle = self._handles.get(os.getpid())
        if handle is None:
            handle = self._handles.setdefault(os.getpid(), self._open())
        return handle

    def _open(self) -> OpenSlide:
        try:
            handle = OpenSlide(self._path)
        except OpenSlideError as error:
            raise SlideError(
                f"{self._path.name}: OpenSlide supports the format but cannot open the file "
                f"({one_line(error)}). Copy it again from its source, with all files that belong "
                "to it."
            ) from error
        handle.set_cache(OpenSlideCache(CACHE_BYTES))
        return handle

    def _flatten(self, image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
        """Compose an RGBA image over the background; areas not scanned are transparent."""
        if image.getchannel("A").getextrema() == (255, 255):
            return np.array(image.convert("RGB"))
        background = Image.new("RGBA", image.size, self._background)
        return np.array(Image.alpha_composite(background, image).convert("RGB"))


def _is_checked(path: Path) -> bool:
    """Return whether a file is a TIFF or DICOM, which is checked before it is opened."""
    with path.open("rb") as file:
        start = file.read(PREAMBLE_BYTES + len(SIGNATURE))
    return start[:4] in SIGNATURES or start.endswith(SIGNATURE)


def bounds_offset(path: Path) -> tuple[float, float]:
    """Return the (x, y) of the scanned area's top-left corner in level-0 pixels; 0 if not recorded.

    MIRAX and other formats place the scanned area on a larger canvas, and some viewers show only
    that area.
    """
    file = dicom_instances(path)[0] if path.is_dir() else path
    if not OpenSlideScan.detects(file):
        return 0.0, 0.0
    with OpenSlide(file) as handle:
        return parse_bounds_offset(handle.properties)


def parse_bounds_offset(properties: Mapping[str, str]) -> tuple[float, float]:
    """Parse the (x, y) of the scanned area's corner from OpenSlide's properties.

    >>> parse_bounds_offset({"openslide.bounds-x": "2048", "openslide.bounds-y": "77"})
    (2048.0, 77.0)
    >>> parse_bounds_offset({})
    (0.0, 0.0)
    """
    x = _parse_number(properties.get(openslide.PROPERTY_NAME_BOUNDS_X))
    y = _parse_number(properties.get(openslide.PROPERTY_NAME_BOUNDS_Y))
    return x or 0.0, y or 0.0


def _metadata(handle: OpenSlide) -> Metadata:
    x, y = (
        _parse_number(handle.properties.get(name))
        for name in (openslide.PROPERTY_NAME_MPP_X, openslide.PROPERTY_NAME_MPP_Y)
    )
    mpp, source = mean_mpp(x, y, source="openslide.mpp-x and mpp-y")
    return Metadata(
        vendor=handle.properties[openslide.PROPERTY_NAME_VENDOR],
        mpp=mpp,
        mpp_source=source,
        objective_power=handle.properties.get(openslide.PROPERTY_NAME_OBJECTIVE_POWER),
        sides=None if x is None or y is None else (x, y),
    )


def _parse_number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None
