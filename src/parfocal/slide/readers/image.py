"""Arrays, and ordinary images read by Pillow, as scans with one level."""

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import IMAGEDESCRIPTION, TiffImageFile

from parfocal.slide.errors import SlideError, one_line
from parfocal.slide.readers.scan import Level, Metadata
from parfocal.slide.readers.tiff_directories import SIGNATURES

MAX_PIXELS = 2**30  # 3 GiB of RGB in memory
HEADER_BYTES = 132  # a DICOM file has its signature at the end of these
CONVERT = (
    "Convert it to a pyramidal TIFF, for example with `vips tiffsave IN OUT.tif --tile --pyramid "
    "--compression jpeg`."
)
UNSUPPORTED_OME = (
    "an OME-TIFF that is not supported: only 8-bit RGB with one plane, in tiles that are all "
    f"stored, can be read. {CONVERT}"
)
_limit_lock = threading.Lock()


class ArrayScan:
    """RGB pixels in memory, as a scan with one level.

    Args:
        pixels: the pixels, which are not copied.
        vendor: name of the format.
    """

    def __init__(self, pixels: UInt8[np.ndarray, "h w 3"], *, vendor: str) -> None:
        self._pixels = pixels
        height, width, _ = pixels.shape
        self.levels: tuple[Level, ...] = (Level(width, height, 1.0),)
        # Images record the dots per inch of a print, not the size of a pixel on the glass.
        self.metadata = Metadata(vendor)

    def read_level(
        self, level: int, x: int, y: int, width: int, height: int
    ) -> UInt8[np.ndarray, "height width 3"]:
        """Return a view of the pixels; see `Scan.read_level`."""
        assert level == 0
        return self._pixels[y : y + height, x : x + width]

    def close(self) -> None:
        """Do nothing, since no file is open."""


def open_image(path: Path) -> ArrayScan:
    """Decode the first picture of an image file as RGB, with transparency over white.

    Raises:
        SlideError: Pillow does not support the file, or it is damaged or too large.
    """
    try:
        # Pillow warns about unusual metadata, and raises where pixels are damaged.
        no_warnings = warnings.catch_warnings(action="ignore", category=UserWarning)
        with _no_pixel_limit(), no_warnings, Image.open(path) as image:
            if _is_ome(image):
                raise SlideError(f"{path.name}: {UNSUPPORTED_OME}")
            _check_size(path, image)
            image.load()
            return ArrayScan(_to_rgb(path, image), vendor=f"{image.format}".lower())
    except UnidentifiedImageError as error:
        raise SlideError(_describe_unsupported(path)) from error
    except (OSError, SyntaxError, ValueError) as error:
        raise SlideError(
            f"{path.name}: the image is damaged or truncated ({one_line(error)}). Copy the file "
            "again from its source."
        ) from error


def _is_ome(image: Image.Image) -> bool:
    return isinstance(image, TiffImageFile) and "<OME" in str(image.tag_v2.get(IMAGEDESCRIPTION))


def _to_rgb(path: Path, image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _scale_to_8_bits(path, image)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return np.array(image.convert("RGB"))


def _scale_to_8_bits(path: Path, image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    """Scale 16-bit gray over its full range."""
    deep = np.asarray(image)
    if image.mode == "F" or deep.min() < 0 or deep.max() > 65535:
        raise SlideError(
            f"{path.name}: the pixels are 32-bit numbers, which cannot be shown as colors. Save "
            "the image with 8 bits per channel."
        )
    gray = np.rint(deep / 257).astype(np.uint8)
    return np.repeat(gray[..., None], 3, axis=2)


def _check_size(path: Path, image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise SlideError(
            f"{path.name}: an image of {width} x {height} px without a pyramid needs "
            f"{width * height * 3 / 2**30:.0f} GiB of memory. {CONVERT}"
        )


@contextmanager
def _no_pixel_limit() -> Iterator[None]:
    """Lift Pillow's limit, which an ordinary scan exceeds; ours is `MAX_PIXELS`."""
    with _limit_lock:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _describe_unsupported(path: Path) -> str:
    with path.open("rb") as file:
        header = file.read(HEADER_BYTES)
    if path.name.lower().endswith((".ome.tif", ".ome.tiff")):
        description = UNSUPPORTED_OME
    elif header.startswith(SIGNATURES):
        description = (
            f"a TIFF with a kind of pixels that neither OpenSlide nor Pillow reads. {CONVERT}"
        )
    elif header.endswith(b"DICM"):
        description = "a DICOM file that is not a whole-slide image. Choose another file."
    else:
        description = (
            "not a slide: neither OpenSlide (SVS, NDPI, MRXS, DICOM, tiled TIFF, ...) nor Pillow "
            "(PNG, JPEG, TIFF) supports its format. Check that it is the right file."
        )
    return f"{path.name}: {description}"
