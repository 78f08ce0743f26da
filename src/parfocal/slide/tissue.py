"""Where the tissue is: a mask from one low-resolution read.

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
from parfocal.slide.threads import threads

MASK_MPP = 16.0
MASK_SIDE_PX = 512  # a small picture is masked finer, if the scan allows
SMOOTH_UM, CLEAN_UM = 16.0, 64.0
# Of 255. Compression alone colors glass by up to 10; what is above 35 is stain on any slide,
# even where ink, blood or a dark half of the tissue pull Otsu's threshold higher.
MIN_SATURATION, MAX_SATURATION = 15, 35
DARK = 50  # of 255: ink, folds in the dark, and the black outside a scan have no color to judge
GRAY_SPREAD = 15  # MagNet's
MOST_THREADS = 4


@dataclass(frozen=True)
class Tissue:
    """A mask of the tissue of one slide.

    Args:
        mask: True where there is tissue; it covers the slide exactly.
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
        """The share of the slide that is tissue."""
        return float(self.mask.mean())

    @property
    def area_mm2(self) -> float:
        """The area of the tissue."""
        width, height = self.slide_size
        return self.share * width * height * (self.slide_mpp / 1000) ** 2

    def fraction(
        self, x: Real[np.ndarray, " n"], y: Real[np.ndarray, " n"], side: float
    ) -> Float[np.ndarray, " n"]:
        """Give the share of tissue in squares; what lies outside the slide is none.

        Args:
            x: left edges, in level-0 pixels.
            y: top edges.
            side: of every square, in level-0 pixels.
        """
        sides = np.full(len(x), side)
        return self.fractions(np.stack([x, y, sides, sides], axis=1))

    def fractions(self, boxes: Real[np.ndarray, "n 4"]) -> Float[np.ndarray, " n"]:
        """Give the share of tissue in boxes (x, y, width, height), as `fraction` does."""
        height, width = self.mask.shape
        scale = np.array([width / self.slide_size[0], height / self.slide_size[1]])
        start, end = boxes[:, :2] * scale, (boxes[:, :2] + boxes[:, 2:]) * scale
        left, top = np.clip(start, 0, (width, height)).T
        right, low = np.clip(end, 0, (width, height)).T
        tissue = (
            self._before(low, right)
            - self._before(top, right)
            - self._before(low, left)
            + self._before(top, left)
        )
        area = (boxes[:, 2:] * scale).prod(axis=1)
        share: Float[np.ndarray, " n"] = (tissue / area).clip(0.0, 1.0)  # but for rounding
        return share

    @cached_property
    def _integral(self) -> Int32[np.ndarray, "h1 w1"]:
        height, width = self.mask.shape
        counts = np.zeros((height + 1, width + 1), dtype=np.int32)
        counts[1:, 1:] = self.mask
        for above, row in pairwise(counts):  # eight times as fast as cumsum along this axis
            np.add(above, row, out=row)
        return counts.cumsum(axis=1, out=counts)

    def _before(
        self, row: Float[np.ndarray, " n"], column: Float[np.ndarray, " n"]
    ) -> Float[np.ndarray, " n"]:
        """Count the tissue above and left of points; between pixels it is bilinear, exactly."""
        height, width = self.mask.shape
        i = np.minimum(row.astype(np.int64), height - 1)
        j = np.minimum(column.astype(np.int64), width - 1)
        down, right = row - i, column - j
        above = self._integral[i, j] * (1 - right) + self._integral[i, j + 1] * right
        below = self._integral[i + 1, j] * (1 - right) + self._integral[i + 1, j + 1] * right
        counted: Float[np.ndarray, " n"] = above * (1 - down) + below * down
        return counted


Method = Literal["otsu", "gray", "all"]


def find_tissue(slide: Slide, *, method: Method = "otsu") -> Tissue:
    """Find the stained tissue of a brightfield slide.

    Specks and holes narrower than about 50 µm are cleaned away; black, and green ink, are none.

    Args:
        slide: is read once, at about 16 µm per pixel.
        method: "otsu" splits the smoothed saturation in two; "gray" takes for glass each pixel
            whose red, green and blue lie within 15 of each other, as MagNet does; "all" reads
            nothing and takes everything, for pictures that are no slides.

    Raises:
        NoTissueError: the slide is empty, or dark like a fluorescence scan.
    """
    if method == "all":
        return _tissue(slide, np.ones((1, 1), dtype=bool), max(slide.size) * slide.mpp)
    width, height = slide.size
    mpp = _mask_mpp(slide)
    pixels = slide.read(Box(0, 0, width, height), mpp, stage="tissue")
    with slide.bill.timed("tissue"):
        planes = np.ascontiguousarray(pixels.transpose(2, 0, 1))  # each is quicker to go through
        brightness, spread = _color(planes)
        _check_bright(slide, brightness)
        stained = _saturated(brightness, spread, mpp) if method == "otsu" else spread >= GRAY_SPREAD
        mask = _cleaned(stained & (brightness >= DARK) & ~_green_ink(planes), mpp)
    if not mask.any():
        raise NoTissueError(
            f"{slide.name}: no tissue found: nothing is colored enough to be stained; look at the "
            "slide, and leave it out if it is empty."
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
    """Choose about 16 µm, a whole multiple of a stored level, so that reading is cheap."""
    longest_um = max(slide.size) * slide.mpp
    target = max(slide.mpp, min(MASK_MPP, longest_um / MASK_SIDE_PX))
    stored = [slide.mpp * level.downsample for level in slide.levels]
    nearest = max(mpp for mpp in stored if mpp <= target * 1.05)
    return nearest * round(target / nearest)


def _color(
    planes: UInt8[np.ndarray, "3 h w"],
) -> tuple[UInt8[np.ndarray, "h w"], UInt8[np.ndarray, "h w"]]:
    """Give the brightest channel, and how far it is from the darkest."""
    brightest = planes.max(axis=0)
    return brightest, brightest - planes.min(axis=0)


def _check_bright(slide: Slide, brightness: UInt8[np.ndarray, "h w"]) -> None:
    """Refuse a scan on a dark ground, where stain shows as light."""
    if np.count_nonzero(brightness < DARK) > brightness.size / 2:
        raise NoTissueError(
            f"{slide.name}: more than half of the scan is nearly black, so it does not look like a "
            "stained slide in transmitted light; fluorescence is not supported."
        )


def _saturated(
    brightness: UInt8[np.ndarray, "h w"], spread: UInt8[np.ndarray, "h w"], mpp: float
) -> Bool[np.ndarray, "h w"]:
    """Take what is more saturated than Otsu's threshold, held within reason."""
    saturation = _saturation(brightness, spread)
    saturation[brightness < DARK] = 0
    sigma = SMOOTH_UM / mpp
    smoothed = _filtered(saturation, ImageFilter.GaussianBlur(sigma), reach=3 * (ceil(sigma) + 1))
    histogram = Image.fromarray(smoothed).histogram()
    threshold = np.clip(_otsu(histogram), MIN_SATURATION, MAX_SATURATION)
    stained: Bool[np.ndarray, "h w"] = smoothed > threshold
    return stained


def _saturation(
    brightness: UInt8[np.ndarray, "*s"], spread: UInt8[np.ndarray, "*s"]
) -> UInt8[np.ndarray, "*s"]:
    """Divide spread by brightness, 255 for all of it; what is over a whole number is dropped."""
    # In 32 bits no quotient of these is rounded up to a whole number.
    share: Float32[np.ndarray, "*s"] = spread * np.float32(255) / np.maximum(brightness, 1)
    return share.astype(np.uint8)


def _otsu(histogram: list[int]) -> int:
    """Give the value that best splits a histogram in two (Otsu 1979)."""
    counts = np.array(histogram, dtype=np.float64)
    values = np.arange(len(counts))
    below, total = counts.cumsum(), counts.sum()
    first_moment = (counts * values).cumsum()
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (first_moment[-1] * below / total - first_moment) ** 2 / (below * (total - below))
    return int(np.nanargmax(np.where(below * (total - below) > 0, between, 0.0)))


def _green_ink(planes: UInt8[np.ndarray, "3 h w"]) -> Bool[np.ndarray, "h w"]:
    """Find marker ink: no usual stain leaves green by far the strongest channel."""
    red, green, blue = planes
    other = np.maximum(red, blue)
    ink: Bool[np.ndarray, "h w"] = (green > other) & (green - other > GRAY_SPREAD)
    return ink


def _cleaned(mask: Bool[np.ndarray, "h w"], mpp: float) -> Bool[np.ndarray, "h w"]:
    """Let each pixel go with the majority around it, which clears specks and fills pinholes."""
    radius = max(1, round(CLEAN_UM / 2 / mpp))
    around = _filtered(mask * np.uint8(255), ImageFilter.BoxBlur(radius), reach=radius)
    return around > 127


def _filtered(
    picture: UInt8[np.ndarray, "h w"], kernel: ImageFilter.Filter, *, reach: int
) -> UInt8[np.ndarray, "h w"]:
    """Filter a picture strip by strip, by threads.

    Args:
        picture: what is filtered.
        kernel: of the filter.
        reach: rows above and below that a row depends on, so that strips fit together exactly.
    """
    count = threads(MOST_THREADS)
    edges = np.linspace(0, len(picture), count + 1).astype(int).tolist()

    def strip(first: int, last: int) -> UInt8[np.ndarray, "_ w"]:
        start = max(0, first - reach)
        filtered = Image.fromarray(picture[start : last + reach]).filter(kernel)
        return np.asarray(filtered)[first - start :][: last - first]

    # Threads of its own, as those of a pool that is kept would be gone after a fork.
    with ThreadPoolExecutor(count) as pool:
        return np.concatenate(list(pool.map(strip, edges, edges[1:])))
