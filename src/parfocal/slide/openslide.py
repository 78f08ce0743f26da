"""Scanner formats and DICOM, through OpenSlide.

An OpenSlide handle may be shared by threads, but fails for good after one damaged tile, and is
not meant to cross a fork. So each process has its own, and a failed one is dropped.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import openslide
from jaxtyping import UInt8
from openslide import OpenSlide, OpenSlideCache, OpenSlideError
from PIL import Image

from parfocal.slide.errors import DamagedRegionError, SlideError
from parfocal.slide.scan import Level, Record, levels_of, mean_mpp

# A cohort's workers may hold many slides open; 32 MiB is 128 decoded tiles each.
CACHE_BYTES = 32 * 2**20


class OpenSlideScan:
    """A file that OpenSlide opens.

    Raises:
        SlideError: it knows the format but cannot open the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handles: dict[int, OpenSlide] = {}
        handle = self._handle()
        self.levels: tuple[Level, ...] = levels_of(handle.level_dimensions)
        self.record = _record(handle)
        background = handle.properties.get(openslide.PROPERTY_NAME_BACKGROUND_COLOR, "ffffff")
        self._background = f"#{background}"
        # OpenSlide takes a level's position in level-0 pixels and divides by its own downsample.
        self._downsamples = handle.level_downsamples

    @staticmethod
    def detects(path: Path) -> bool:
        """Tell whether OpenSlide knows the file's format."""
        return OpenSlide.detect_format(path) is not None

    def read_level(
        self, level: int, x: int, y: int, width: int, height: int
    ) -> UInt8[np.ndarray, "height width 3"]:
        """Read stored pixels; where a downsample is not whole, up to half a level-0 pixel off."""
        downsample = self._downsamples[level]
        region = (round(x * downsample), round(y * downsample)), level, (width, height)
        handle = self._handle()
        try:
            return self._flatten(handle.read_region(*region))
        except OpenSlideError:
            # Not closed here: another thread may be inside it. It may also be that thread's
            # damage that we met, so ask again with a handle that nobody shares.
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
        """Close this process's handle."""
        handle = self._handles.pop(os.getpid(), None)
        if handle is not None:
            handle.close()

    def _handle(self) -> OpenSlide:
        """Give this process's handle. No lock, as a fork could copy it locked."""
        handle = self._handles.get(os.getpid())
        if handle is None:
            handle = self._handles.setdefault(os.getpid(), self._open())
        return handle

    def _open(self) -> OpenSlide:
        try:
            handle = OpenSlide(self._path)
        except OpenSlideError as error:
            raise SlideError(
                f"{self._path.name}: OpenSlide knows the format but cannot open the file: "
                f"{one_line(error)}; copy it again from its source, with the files beside it."
            ) from error
        handle.set_cache(OpenSlideCache(CACHE_BYTES))
        return handle

    def _flatten(self, image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
        """Lay an RGBA picture on the background: what the scanner skipped is transparent."""
        if image.getchannel("A").getextrema() == (255, 255):
            return np.array(image.convert("RGB"))
        background = Image.new("RGBA", image.size, self._background)
        return np.array(Image.alpha_composite(background, image).convert("RGB"))


def dicom_instance(folder: Path) -> Path:
    """Choose a file of the one DICOM series in a folder.

    Raises:
        SlideError: the folder holds none, or several.
    """
    series: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        if file.is_file() and OpenSlide.detect_format(file) == "dicom":
            with OpenSlide(file) as handle:
                series.setdefault(handle.properties["dicom.SeriesInstanceUID"], file)
    if len(series) == 1:
        return next(iter(series.values()))
    if series:
        names = ", ".join(file.name for file in series.values())
        raise SlideError(f"{folder}: a folder of {len(series)} DICOM slides; name one of {names}.")
    raise SlideError(
        f"{folder}: a folder, and no DICOM slide is in it; give slide files, as {folder}/*.svs."
    )


def scanned_bounds(path: Path) -> tuple[float, float]:
    """Give x and y, in level-0 pixels, of where the scanned part begins; 0 if the file is silent.

    MIRAX and others lay what was scanned on a larger canvas; some viewers show that part alone.
    """
    file = dicom_instance(path) if path.is_dir() else path
    if not OpenSlideScan.detects(file):
        return 0.0, 0.0
    with OpenSlide(file) as handle:
        return bounds_of(handle.properties)


def bounds_of(properties: Mapping[str, str]) -> tuple[float, float]:
    """Read them from what OpenSlide says of a file.

    >>> bounds_of({"openslide.bounds-x": "2048", "openslide.bounds-y": "77"}), bounds_of({})
    ((2048.0, 77.0), (0.0, 0.0))
    """
    x = _number(properties.get(openslide.PROPERTY_NAME_BOUNDS_X))
    y = _number(properties.get(openslide.PROPERTY_NAME_BOUNDS_Y))
    return x or 0.0, y or 0.0


def one_line(error: Exception) -> str:
    """Give another library's message on one line, without a closing full stop."""
    return " ".join(str(error).split()).rstrip(".")


def _record(handle: OpenSlide) -> Record:
    """Take down what the file says; the mean where pixels are not square."""
    x, y = (
        _number(handle.properties.get(name))
        for name in (openslide.PROPERTY_NAME_MPP_X, openslide.PROPERTY_NAME_MPP_Y)
    )
    mpp, source = mean_mpp(x, y, source="openslide.mpp-x and mpp-y")
    return Record(
        vendor=handle.properties[openslide.PROPERTY_NAME_VENDOR],
        mpp=mpp,
        mpp_source=source,
        objective_power=handle.properties.get(openslide.PROPERTY_NAME_OBJECTIVE_POWER),
    )


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None
