"""Arrays, and ordinary images, as scans with one level that is held in memory.

JPEG is decoded strictly, since Pillow fills lost parts of a JPEG image with other pixels. PNG and
JPEG are decoded into the array that is kept; Pillow would need several times its size.
"""

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import simplejpeg
from jaxtyping import Shaped, UInt8
from PIL import Image, UnidentifiedImageError

from parfocal.slide.errors import SlideError, one_line
from parfocal.slide.readers.oriented import OrientedScan
from parfocal.slide.readers.scan import Level, Metadata, Scan

MAX_PIXELS = 2**30  # 3 GiB of RGB in memory
LARGE_PX = 2**24  # from here on, an image has to have a plausible compression
MAX_COMPRESSION = 4096  # pixels per byte; PNG reaches 1032 bytes, JPEG less
BAND_PX = 2**18  # pixels that are converted at once
MIRAX_SUFFIX = ".mrxs"
ORIENTATION_TAG = 0x0112  # of EXIF
HEADER_BYTES = 132  # a DICOM file has its signature at the end of these
CONVERT = (
    "Convert it to a pyramidal TIFF, for example with `vips tiffsave IN OUT.tif --tile --pyramid "
    "--compression jpeg`."
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


def is_image(path: Path) -> bool:
    """Return whether Pillow knows the format of a file."""
    try:
        with _no_pixel_limit(), Image.open(path):
            return True
    except Exception:  # damaged headers raise anything
        return False


def open_image(path: Path) -> Scan:
    """Decode the first picture of an image file as RGB, with transparency over white.

    Raises:
        SlideError: the file is not an image, or it is damaged or too large.
    """
    if path.suffix.lower() == MIRAX_SUFFIX:  # itself a small JPEG image
        raise SlideError(
            f"{path.name}: this MIRAX slide lacks its folder {path.stem} with Slidedat.ini. Copy "
            "the folder beside it."
        )
    try:
        # Pillow warns about unusual metadata, and raises where pixels are damaged.
        no_warnings = warnings.catch_warnings(action="ignore", category=UserWarning)
        with _no_pixel_limit(), no_warnings, Image.open(path) as image:
            _check_size(path, image)
            scan = ArrayScan(_decode(path, image), vendor=f"{image.format}".lower())
            orientation = image.getexif().get(ORIENTATION_TAG, 1)
    except UnidentifiedImageError as error:
        raise SlideError(_describe_unsupported(path)) from error
    except SlideError:
        raise
    except Exception as error:  # decoders raise anything for damaged data
        raise SlideError(
            f"{path.name}: the image is damaged or truncated ({one_line(error)}). Copy the file "
            "again from its source."
        ) from error
    return OrientedScan(scan, orientation) if orientation in range(2, 9) else scan


def _decode(path: Path, image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    if image.format in ("JPEG", "MPO"):
        return _decode_jpeg(path.read_bytes(), image)
    if image.format == "PNG":
        return _decode_png(path, path.read_bytes())
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _scale_to_8_bits(path, np.asarray(image), image.mode)
    image.load()
    return _in_bands(image)


def _decode_jpeg(encoded: bytes, image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    """Decode a JPEG image; any warning of the decoder counts as damage."""
    if image.mode != "CMYK":
        pixels: UInt8[np.ndarray, "h w 3"] = simplejpeg.decode_jpeg(encoded, "RGB")
        return pixels
    inks = simplejpeg.decode_jpeg(encoded, "CMYK")
    np.subtract(255, inks, out=inks)  # stored inverted, as by Photoshop
    return _in_bands(Image.fromarray(inks, "CMYK"))


def _decode_png(path: Path, encoded: bytes) -> UInt8[np.ndarray, "h w 3"]:
    from imagecodecs import png_decode  # noqa: PLC0415  # slow to import

    samples = png_decode(encoded)
    samples = samples.reshape(*samples.shape[:2], -1)
    if samples.shape[2] == 3 and samples.dtype == np.uint8:
        return samples
    pixels = np.empty((*samples.shape[:2], 3), dtype=np.uint8)
    for rows in _bands(*samples.shape[:2]):
        pixels[rows] = _png_to_rgb(samples[rows])
    return pixels


def _png_to_rgb(samples: Shaped[np.ndarray, "h w s"]) -> UInt8[np.ndarray, "h w 3"]:
    """Convert gray or RGB, with or without transparency, of 8 or 16 bits."""
    if samples.dtype == np.uint16:
        samples = np.rint(samples / 257).astype(np.uint8)
    colors = samples.shape[2] - 1 + samples.shape[2] % 2  # 1 or 3
    rgb = np.repeat(samples[..., :1], 3, axis=2) if colors == 1 else samples[..., :3]
    if colors == samples.shape[2]:
        return rgb
    rgba = Image.fromarray(np.dstack([rgb, samples[..., -1]]))
    return np.asarray(Image.alpha_composite(_white(rgba.size), rgba).convert("RGB"))


def _in_bands(image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    """Convert a decoded image to RGB in parts, since a conversion of the whole needs memory."""
    width, height = image.size
    pixels = np.empty((height, width, 3), dtype=np.uint8)
    has_alpha = image.has_transparency_data
    for rows in _bands(height, width):
        band = image.crop((0, rows.start, width, rows.stop))
        if has_alpha:
            band = Image.alpha_composite(_white(band.size), band.convert("RGBA"))
        pixels[rows] = np.asarray(band.convert("RGB"))
    return pixels


def _bands(height: int, width: int) -> Iterator[slice]:
    """Divide an image into bands of whole rows."""
    rows = max(1, BAND_PX // width)
    for start in range(0, height, rows):
        yield slice(start, min(start + rows, height))


def _white(size: tuple[int, int]) -> Image.Image:
    return Image.new("RGBA", size, "white")


def _scale_to_8_bits(
    path: Path, deep: Shaped[np.ndarray, "h w"], mode: str
) -> UInt8[np.ndarray, "h w 3"]:
    """Scale 16-bit gray over its full range."""
    if mode == "F" or deep.min() < 0 or deep.max() > 65535:
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
    length = path.stat().st_size
    if width * height > LARGE_PX and width * height > MAX_COMPRESSION * length:
        raise SlideError(
            f"{path.name}: the image is damaged or truncated ({width} x {height} px cannot be "
            f"stored in {length} bytes). Copy the file again from its source."
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
    if header.endswith(b"DICM"):
        description = "a DICOM file that is not a whole-slide image. Choose another file."
    else:
        description = (
            "not a slide: neither OpenSlide (SVS, NDPI, MRXS, DICOM, tiled TIFF, ...) nor Pillow "
            "(PNG, JPEG, TIFF) supports its format. Check that it is the right file."
        )
    return f"{path.name}: {description}"
