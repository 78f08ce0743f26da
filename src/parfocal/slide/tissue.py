"""Find the tissue of a slide: a mask computed from one low-resolution read.

Glass is gray and stain is colored, so the mask is Otsu's threshold on the saturation.
Source of "gray": the gray filter of MagNet (Dimitriou & Arandjelović, arXiv 2112.06121).
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import ceil
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Float32, Int32, Real, UInt8
from PIL import Image, ImageFilter

from parfocal.slide.errors import NoTissueError
from parfocal.slide.slide import Box, Slide
from parfocal.slide.threads import thread_count

Method = Literal["otsu", "gray", "all"]

MASK_MPP = 16.0
MASK_SIDE_PX = 512  # the mask of a small picture is finer, with a longer side of this many pixels
SMOOTH_UM, CLEAN_UM = 16.0, 64.0
# Out of 255. Compression alone gives glass a saturation of up to 10. Above 35 is stain on any
# slide, even where ink, blood or dark tissue pull Otsu's threshold higher.
MIN_SATURATION, MAX_SATURATION = 15, 35
DARK = 50  # out of 255: ink, dark folds and the black outside a scan have no usable color
GRAY_SPREAD = 15  # MagNet's
MAX_THREADS = 4


@dataclass(frozen=True)
class Tissue:
    """The tissue mask of one slide.

    Args:
        mask: whether each pixel is tissue; the mask covers the whole slide.
        mask_mpp: microns per pixel of the mask.
        slide_size: width and height in level-0 pixels.
        slide_mpp: microns per level-0 pixel.
        level_mpps: microns per pixel of each stored level, sharpest first.
    """

    mask: Bool[np.ndarray, "h w"]
    mask_mpp: float
    slide_size: tuple[int, int]
    slide_mpp: float
    level_mpps: tuple[float, ...]

    @property
    def share(self) -> float:
        """Tissue area, as a share of the slide's area."""
        return float(self.mask.mean())

    @property
    def area_mm2(self) -> float:
        """Tissue area in square millimeters."""
        width, height = self.slide_size
        return self.share * width * height * (self.slide_mpp / 1000) ** 2

    def fraction(
        self, x: Real[np.ndarray, " n"], y: Real[np.ndarray, " n"], side: float
    ) -> Float[np.ndarray, " n"]:
        """Return the share of tissue in squares of one size; outside the slide is no tissue.

        Args:
            x: left edges in level-0 pixels.
            y: top edges in level-0 pixels.
            side: side of the squares in level-0 pixels.

        Returns:
            Shares in 0..1.
        """
        sides = np.full(len(x), side)
        return self.fractions(np.stack([x, y, sides, sides], axis=1))

    def fractions(self, boxes: Real[np.ndarray, "n 4"]) -> Float[np.ndarray, " n"]:
        """Return the share of tissue in boxes; outside the slide is no tissue.

        Args:
            boxes: x, y, width and height of each box in level-0 pixels.

        Returns:
            Shares in 0..1.
        """
        height, width = self.mask.shape
        scale = np.array([width / self.slide_size[0], height / self.slide_size[1]])
        start, end = boxes[:, :2] * scale, (boxes[:, :2] + boxes[:, 2:]) * scale
        left, top = np.clip(start, 0, (width, height)).T
        right, bottom = np.clip(end, 0, (width, height)).T
        tissue = (
            self._count_before(bottom, right)
            - self._count_before(top, right)
            - self._count_before(bottom, left)
            + self._count_before(top, left)
        )
        area = (boxes[:, 2:] * scale).prod(axis=1)
        share: Float[np.ndarray, " n"] = (tissue / area).clip(0.0, 1.0)  # rounding may exceed 0..1
        return share

    @cached_property
    def _integral(self) -> Int32[np.ndarray, "h1 w1"]:
        height, width = self.mask.shape
        counts = np.zeros((height + 1, width + 1), dtype=np.int32)
        counts[1:, 1:] = self.mask
        for above, row in pairwise(counts):  # eight times faster than cumsum along this axis
            np.add(above, row, out=row)
        return counts.cumsum(axis=1, out=counts)

    def _count_before(
        self, row: Float[np.ndarray, " n"], column: Float[np.ndarray, " n"]
    ) -> Float[np.ndarray, " n"]:
        """Return the tissue area above and left of points; bilinear interpolation is exact."""
        height, width = self.mask.shape
        i = np.minimum(row.astype(np.int64), height - 1)
        j = np.minimum(column.astype(np.int64), width - 1)
        down, right = row - i, column - j
        above = self._integral[i, j] * (1 - right) + self._integral[i, j + 1] * right
        below = self._integral[i + 1, j] * (1 - right) + self._integral[i + 1, j + 1] * right
        count: Float[np.ndarray, " n"] = above * (1 - down) + below * down
        return count


def find_tissue(slide: Slide, *, method: Method = "otsu") -> Tissue:
    """Find the stained tissue of a brightfield slide.

    Specks and holes narrower than about 50 µm are removed. Black areas and green ink are not
    tissue.

    Args:
        slide: the slide, which is read once at about 16 µm per pixel.
        method: "otsu" splits the smoothed saturation by Otsu's threshold; "gray" classifies a
            pixel as glass if its red, green and blue lie within 15 of each other, as MagNet does;
            "all" reads nothing and takes the whole picture as tissue, for images that are not
            slides.

    Raises:
        NoTissueError: the slide is empty, or dark like a fluorescence scan.
        SlideError: the file is damaged.
    """
    if method == "all":
        return _tissue(slide, np.ones((1, 1), dtype=bool), max(slide.size) * slide.mpp)
    width, height = slide.size
    mpp = _mask_mpp(slide)
    pixels = slide.read(Box(0, 0, width, height), mpp, stage="tissue")
    with slide.cost_meter.measure_time("tissue"):
        planes = np.ascontiguousarray(pixels.transpose(2, 0, 1))  # contiguous planes are faster
        brightness, spread = _brightness_and_spread(planes)
        _check_bright(slide, brightness)
        stained = _stained(brightness, spread, mpp) if method == "otsu" else spread >= GRAY_SPREAD
        mask = _clean(stained & (brightness >= DARK) & ~_green_ink(planes), mpp)
    if not mask.any():
        raise NoTissueError(
            f"{slide.name}: no tissue found, since nothing is colored enough to be stained. View "
            "the slide, and exclude it if it is empty."
        )
    return _tissue(slide, mask, slide.achieved_mpp(mpp))


def _tissue(slide: Slide, mask: Bool[np.ndarray, "h w"], mpp: float) -> Tissue:
    return Tissue(
        mask=mask,
        mask_mpp=mpp,
        slide_size=slide.size,
        slide_mpp=slide.mpp,
        level_mpps=tuple(slide.mpp * level.downsample for level in slide.levels),
    )


def _mask_mpp(slide: Slide) -> float:
    """Return an mpp of about 16 that is a whole multiple of a stored level's, to read fast."""
    longest_um = max(slide.size) * slide.mpp
    target = max(slide.mpp, min(MASK_MPP, longest_um / MASK_SIDE_PX))
    stored = [slide.mpp * level.downsample for level in slide.levels]
    nearest = max(mpp for mpp in stored if mpp <= target * 1.05)
    return nearest * round(target / nearest)


def _brightness_and_spread(
    planes: UInt8[np.ndarray, "3 h w"],
) -> tuple[UInt8[np.ndarray, "h w"], UInt8[np.ndarray, "h w"]]:
    """Return the brightest channel of each pixel, and its difference from the darkest."""
    brightest = planes.max(axis=0)
    return brightest, brightest - planes.min(axis=0)


def _check_bright(slide: Slide, brightness: UInt8[np.ndarray, "h w"]) -> None:
    """Raise if the background is dark, as in fluorescence."""
    if np.count_nonzero(brightness < DARK) > brightness.size / 2:
        raise NoTissueError(
            f"{slide.name}: more than half of the scan is nearly black, so it is not a stained "
            "slide in transmitted light. Fluorescence is not supported."
        )


def _stained(
    brightness: UInt8[np.ndarray, "h w"], spread: UInt8[np.ndarray, "h w"], mpp: float
) -> Bool[np.ndarray, "h w"]:
    """Return where the saturation exceeds Otsu's threshold, limited to a plausible range."""
    saturation = _saturation(brightness, spread)
    saturation[brightness < DARK] = 0
    sigma = SMOOTH_UM / mpp
    smoothed = _filter(saturation, ImageFilter.GaussianBlur(sigma), reach=3 * (ceil(sigma) + 1))
    histogram = Image.fromarray(smoothed).histogram()
    threshold = np.clip(_otsu(histogram), MIN_SATURATION, MAX_SATURATION)
    stained: Bool[np.ndarray, "h w"] = smoothed > threshold
    return stained


def _saturation(
    brightness: UInt8[np.ndarray, "*s"], spread: UInt8[np.ndarray, "*s"]
) -> UInt8[np.ndarray, "*s"]:
    """Return spread divided by brightness, times 255, rounded down."""
    # No quotient of these values is rounded up to a whole number in 32 bits.
    share: Float32[np.ndarray, "*s"] = spread * np.float32(255) / np.maximum(brightness, 1)
    return share.astype(np.uint8)


def _otsu(histogram: list[int]) -> int:
    """Return the value that best splits a histogram in two (Otsu 1979)."""
    counts = np.array(histogram, dtype=np.float64)
    values = np.arange(len(counts))
    below, total = counts.cumsum(), counts.sum()
    first_moment = (counts * values).cumsum()
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (first_moment[-1] * below / total - first_moment) ** 2 / (below * (total - below))
    return int(np.nanargmax(np.where(below * (total - below) > 0, between, 0.0)))


def _green_ink(planes: UInt8[np.ndarray, "3 h w"]) -> Bool[np.ndarray, "h w"]:
    """Return where there is marker ink: no common stain has green as its strongest channel."""
    red, green, blue = planes
    other = np.maximum(red, blue)
    ink: Bool[np.ndarray, "h w"] = (green > other) & (green - other > GRAY_SPREAD)
    return ink


def _clean(mask: Bool[np.ndarray, "h w"], mpp: float) -> Bool[np.ndarray, "h w"]:
    """Set each pixel to the majority around it, which removes specks and fills pinholes."""
    radius = max(1, round(CLEAN_UM / 2 / mpp))
    majority = _filter(mask * np.uint8(255), ImageFilter.BoxBlur(radius), reach=radius)
    return majority > 127


def _filter(
    picture: UInt8[np.ndarray, "h w"], kernel: ImageFilter.Filter, *, reach: int
) -> UInt8[np.ndarray, "h w"]:
    """Filter a picture in horizontal strips, one per thread.

    Args:
        picture: the picture.
        kernel: the filter.
        reach: number of rows above and below that the result of a row depends on.
    """
    count = thread_count(MAX_THREADS)
    edges = np.linspace(0, len(picture), count + 1).astype(int).tolist()

    def filter_strip(first: int, last: int) -> UInt8[np.ndarray, "_ w"]:
        start = max(0, first - reach)
        filtered = Image.fromarray(picture[start : last + reach]).filter(kernel)
        return np.asarray(filtered)[first - start :][: last - first]

    # The pool is not kept, since its threads would not exist after a fork.
    with ThreadPoolExecutor(count) as pool:
        return np.concatenate(list(pool.map(filter_strip, edges, edges[1:])))
