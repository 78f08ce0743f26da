"""Arrays, and ordinary images through Pillow, as slides of one level."""

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import IMAGEDESCRIPTION, TiffImageFile

from parfocal.slide.errors import SlideError
from parfocal.slide.scan import Level, Record
from parfocal.slide.tiff import MAGIC, directories

MAX_PIXELS = 2**30  # 3 GiB of RGB in memory; more belongs in a pyramid
CONVERT = (
    "convert it to a pyramidal TIFF, for example with `vips tiffsave IN OUT.tif --tile --pyramid "
    "--compression jpeg`"
)
OME = (
    "an OME-TIFF of other pixels than 8-bit RGB in tiles, all of one plane and stored, which is "
    f"the kind that is read; {CONVERT}"
)
_limit = threading.Lock()


class ArrayScan:
    """RGB pixels in memory."""

    def __init__(self, pixels: UInt8[np.ndarray, "h w 3"], *, vendor: str) -> None:
        self._pixels = pixels
        height, width, _ = pixels.shape
        self.levels: tuple[Level, ...] = (Level(width, height, 1.0),)
        # Images carry dots per inch of print, never the size of a pixel on the glass.
        self.record = Record(vendor)

    def read_level(
        self, level: int, x: int, y: int, width: int, height: int
    ) -> UInt8[np.ndarray, "height width 3"]:
        """Give pixels, not to be written on."""
        assert level == 0
        return self._pixels[y : y + height, x : x + width]

    def close(self) -> None:
        """Do nothing: there is no file."""


def open_image(path: Path) -> ArrayScan:
    """Decode the first picture of an image file as RGB, transparency over white.

    Raises:
        SlideError: Pillow cannot read it, or it is only part of what it should be.
    """
    with path.open("rb") as opened:
        start = opened.read(132)
        # The rest of a slide that is cut short may still hold a picture, but not the slide's.
        if start.startswith(MAGIC) and not directories_end(opened):
            raise SlideError(
                f"{path.name}: a TIFF whose list of pictures breaks off, so it is cut short or "
                "damaged; copy it again from its source."
            )
    try:
        # Pillow warns of odd metadata, and raises where pixels are damaged.
        ignored = warnings.catch_warnings(action="ignore", category=UserWarning)
        with _no_bomb_limit(), ignored, Image.open(path) as image:
            if _is_ome(image):
                raise SlideError(f"{path.name}: {OME}.")
            _check_size(path, image)
            image.load()
            return ArrayScan(_rgb(path, image), vendor=f"{image.format}".lower())
    except UnidentifiedImageError as error:
        raise SlideError(_not_a_slide(path, start)) from error
    except (OSError, SyntaxError, ValueError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise SlideError(
            f"{path.name}: the image is damaged or cut short ({reason}); copy it again from its "
            "source."
        ) from error


def _is_ome(image: Image.Image) -> bool:
    return isinstance(image, TiffImageFile) and "<OME" in str(image.tag_v2.get(IMAGEDESCRIPTION))


def _rgb(path: Path, image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _from_deep(path, image)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return np.array(image.convert("RGB"))


def _from_deep(path: Path, image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    """Scale 16-bit gray to 8 bits over its full range."""
    deep = np.asarray(image)
    if image.mode == "F" or deep.min() < 0 or deep.max() > 65535:
        raise SlideError(
            f"{path.name}: its pixels are 32-bit numbers, not a picture; save it with 8 bits a "
            "channel."
        )
    gray = np.rint(deep / 257).astype(np.uint8)
    return np.repeat(gray[..., None], 3, axis=2)


def _check_size(path: Path, image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise SlideError(
            f"{path.name}: an image of {width} x {height} px without a pyramid would take "
            f"{width * height * 3 / 2**30:.0f} GiB of memory; {CONVERT}."
        )


@contextmanager
def _no_bomb_limit() -> Iterator[None]:
    """Lift Pillow's limit, which is below the size of an ordinary scan; ours is `MAX_PIXELS`."""
    with _limit:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def directories_end(file: BinaryIO) -> bool:
    """Tell whether a TIFF's chain of directories lies in the file, up to its last."""
    try:
        for _ in directories(file):
            pass
    except EOFError:
        return False
    return True


def _not_a_slide(path: Path, start: bytes) -> str:
    if path.name.lower().endswith((".ome.tif", ".ome.tiff")):
        what = OME
    elif start.startswith(MAGIC):
        what = f"a TIFF whose kind of pixels neither OpenSlide nor Pillow reads; {CONVERT}"
    elif start[128:132] == b"DICM":
        what = "a DICOM file, but no whole-slide image; give one that is"
    else:
        what = (
            "not a slide: neither OpenSlide (SVS, NDPI, MRXS, DICOM, tiled TIFF, ...) nor Pillow "
            "(PNG, JPEG, TIFF) knows its format; check that it is the right file"
        )
    return f"{path.name}: {what}."
