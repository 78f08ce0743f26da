"""Read DICOM slides in encodings that OpenSlide does not decode, with wsidicom.

wsidicom takes a second to import, and is not a requirement.
"""

import os
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8

from parfocal.slide.errors import DamagedRegionError, SlideError, one_line
from parfocal.slide.readers.scan import Level, Metadata, compute_levels, mean_mpp

if TYPE_CHECKING:
    from wsidicom import WsiDicom

MPP_SOURCE = "PixelSpacing"


class WsiDicomScan:
    """A DICOM slide opened by wsidicom.

    Args:
        files: all files of the series.

    Raises:
        SlideError: wsidicom is not installed, or cannot open the files.
    """

    def __init__(self, files: list[Path]) -> None:
        self._files = files
        self._lock = Lock()  # wsidicom seeks in files that threads would share
        self._handles: dict[int, WsiDicom] = {}
        handle = self._handle()
        try:
            stored = [(level.size.width, level.size.height) for level in handle.levels]
            self._numbers = [level.level for level in handle.levels]
            spacing = handle.levels[0].mpp
            x, y = float(spacing.width), float(spacing.height)
        except Exception as error:
            raise self._failure(error) from error
        mpp, source = mean_mpp(x, y, source=MPP_SOURCE)
        self.levels: tuple[Level, ...] = compute_levels(stored)
        self.metadata = Metadata("dicom", mpp, source, sides=(x, y))

    def read_level(
        self, level: int, x: int, y: int, width: int, height: int
    ) -> UInt8[np.ndarray, "height width 3"]:
        """Read stored pixels; see `Scan.read_level`."""
        handle = self._handle()
        try:
            with self._lock:
                image = handle.read_region((x, y), self._numbers[level], (width, height))
        except Exception as error:  # its decoders raise anything
            downsample = self.levels[level].downsample
            corner = round(x * downsample), round(y * downsample)
            raise DamagedRegionError(
                self._files[0], corner, (width, height), level, one_line(error)
            ) from error
        return np.asarray(image.convert("RGB"))

    def close(self) -> None:
        """Close the files of this process."""
        handle = self._handles.pop(os.getpid(), None)
        if handle is not None:
            handle.close()

    def _handle(self) -> "WsiDicom":
        """Return the handle of this process; a forked one must not share positions in files."""
        process = os.getpid()
        if process not in self._handles:
            self._lock = Lock()  # that of the parent may be locked
            self._handles[process] = self._open()
        return self._handles[process]

    def _open(self) -> "WsiDicom":
        try:
            from wsidicom import WsiDicom  # noqa: PLC0415  # optional dependency
        except ImportError as error:
            raise SlideError(
                f"{self._files[0].name}: OpenSlide does not decode this DICOM slide, but wsidicom "
                "does. Install it with `pip install 'parfocal[dicom]'`."
            ) from error
        try:
            return WsiDicom.open(self._files)
        except Exception as error:
            raise self._failure(error) from error

    def _failure(self, error: Exception) -> SlideError:
        return SlideError(
            f"{self._files[0].name}: wsidicom cannot open this DICOM slide ({one_line(error)}). "
            "Copy it again from its source, with all its files."
        )
