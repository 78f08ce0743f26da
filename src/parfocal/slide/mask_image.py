"""Read a mask of a whole scan from an image file."""

import warnings
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Shaped, UInt8
from PIL import Image, UnidentifiedImageError

from parfocal.slide.errors import one_line

MAX_MASK_MPP = 100.0
ENOUGH_MPP = 16
SHAPE_TOLERANCE = 0.01  # relative difference of the two ratios of a mask's sides to the scan's
HALF = 127  # of 255
LOSSY = ("JPEG", "MPO")  # values change a little, so that the background is not 0 everywhere
# Share of neighboring pixels above 0 that differ: few in a mask of labels, most in a picture.
MAX_DIFFERING = 0.3

Mask = Bool[np.ndarray, "h w"]
Values = Shaped[np.ndarray, "h w"]


class MaskImageError(Exception):
    """An image that is not a mask of a scan; the message does not name the file."""


def read_mask_image(path: Path, size: tuple[int, int], mpp: float) -> Mask:
    """Return which pixels of a mask image are not 0.

    Transparent pixels count as 0. Images with a palette are read as colors, of which black is 0.

    Args:
        path: the image.
        size: width and height of the scan in level-0 pixels.
        mpp: microns per level-0 pixel.

    Raises:
        MaskImageError: the image cannot be read, is not a mask, or has the wrong aspect ratio.
    """
    try:
        with (
            warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning),
            Image.open(path) as image,
        ):
            _check_shape(image.size, size, mpp)
            return _nonzero(image)
    except Image.DecompressionBombError:
        raise MaskImageError(
            f"the mask is too large; {ENOUGH_MPP} µm per pixel are enough."
        ) from None
    except UnidentifiedImageError:
        raise MaskImageError(
            "neither GeoJSON (.geojson, .json) nor an image that can be read."
        ) from None
    except (OSError, ValueError, SyntaxError) as error:
        raise MaskImageError(f"the image cannot be read ({one_line(error)}).") from None


def _check_shape(size: tuple[int, int], slide_size: tuple[int, int], mpp: float) -> None:
    (width, height), (slide_width, slide_height) = size, slide_size
    across, down = slide_width / width, slide_height / height
    described = f"the mask is {width} x {height} px, and the scan {slide_width} x {slide_height} px"
    if abs(across / down - 1) > SHAPE_TOLERANCE + 1 / width + 1 / height:
        raise MaskImageError(
            f"{described}, so their aspect ratios differ. Give a mask of the whole scan, neither "
            "cropped nor rotated."
        )
    if across < 1 - SHAPE_TOLERANCE:
        raise MaskImageError(f"{described}, so the scan is smaller. Give a mask of this slide.")
    if max(across, down) * mpp > MAX_MASK_MPP and max(size) > 1:
        raise MaskImageError(
            f"{described}, so that a pixel of the mask is {across * mpp:.0f} µm wide. Save it with "
            f"at most {MAX_MASK_MPP:g} µm per pixel; {ENOUGH_MPP} are enough."
        )


def _nonzero(image: Image.Image) -> Mask:
    threshold = HALF if image.format in LOSSY else 0
    if not (image.mode == "P" or image.has_transparency_data or len(image.getbands()) > 1):
        return _of_values(np.asarray(image), threshold)
    colors = np.asarray(image.convert("RGBA" if image.has_transparency_data else "RGB"))
    opaque: Mask = np.ones(colors.shape[:2], dtype=bool)
    if colors.shape[2] == 4:
        alpha = colors[:, :, 3]
        opaque = alpha > min(HALF, int(alpha.max()) // 2)  # overlays are often half transparent
    shown = colors[opaque][:, :3]
    if not opaque.all() and (not len(shown) or (shown == shown[0]).all()):
        return opaque
    tissue: Mask = opaque & _of_colors(colors[:, :, :3], threshold, labels=image.mode == "P")
    return tissue


def _of_colors(colors: UInt8[np.ndarray, "h w 3"], threshold: int, *, labels: bool) -> Mask:
    """Return which colors are not black.

    Args:
        colors: the image; a gray one, unless its colors stand for labels.
        threshold: largest value of black.
        labels: whether the colors are those of a palette.
    """
    if labels:
        return _of_values(colors.max(axis=2), threshold)
    if (colors != colors[:, :, :1]).any():
        raise MaskImageError(
            "a color picture, not a mask. Save an image of one channel, 0 where there is no tissue."
        )
    return _of_values(colors[:, :, 0], threshold)


def _of_values(values: Values, threshold: int) -> Mask:
    tissue: Mask = values > threshold
    if not tissue.any():
        return tissue
    lowest, highest = values[tissue].min(), values[tissue].max()
    found = f"its values are {lowest:.4g} to {highest:.4g}"
    if tissue.all() and lowest < highest:
        raise MaskImageError(f"no pixel is 0: {found}. Save 0 where there is no tissue.")
    both = tissue[:, 1:] & tissue[:, :-1]
    num_pairs = int(np.count_nonzero(both))
    num_differing = int(np.count_nonzero((values[:, 1:] != values[:, :-1]) & both))
    if num_differing > MAX_DIFFERING * num_pairs:
        raise MaskImageError(
            f"a picture or a map of probabilities, not a mask: {found}, and neighboring pixels "
            "differ. Save 0 where there is no tissue, and one value elsewhere."
        )
    return tissue
