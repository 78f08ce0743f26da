"""Find the tissue of a slide: a mask computed from one low-resolution read.

Source of "gray": the gray filter of MagNet (Dimitriou & Arandjelović, arXiv 2112.06121).
"""

import io
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int32, Real, UInt8
from PIL import Image, ImageFilter

from parfocal.slide.errors import NoTissueError, tissue_advice
from parfocal.slide.slide import Box, Slide
from parfocal.slide.stain import (
    CANVAS,
    DARK,
    brightness_and_spread,
    faint_share,
    filter_in_strips,
    find_stain,
)

Method = Literal["otsu", "gray", "all"]

MASK_MPP = 16.0
MASK_SIDE_PX = 512  # the mask of a small picture is finer, with a longer side of this many pixels
CLEAN_UM = 64.0
GRAY_SPREAD = 15  # MagNet's
# Median of the darkest channel, out of 255, that a scan in transmitted light exceeds outside the
# black canvas. In fluorescence, light of one color leaves the other channels dark.
MIN_TRANSMITTED = 60
GLASS, MIN_GLASS = 180, 0.1  # darkest channel of glass, and its share of what is not dark
MAX_DARK = 0.3  # share of a scan without glass that may be dark
MAX_GREEN = 0.2  # share of the colored area that may be green ink
GRAY_PICTURE = 6  # largest difference of the channels of a picture without color
ALL_OVER, NEARLY_NONE = 0.99, 0.005  # shares of the scan that are suspicious
NOTEBOOK_PX = 480  # longer side of the picture for notebooks
TISSUE_COLOR, GLASS_COLOR = (200, 110, 160), (245, 245, 245)


@dataclass(frozen=True)
class Tissue:
    """The tissue mask of one slide.

    Args:
        mask: whether each pixel is tissue; the mask covers the whole slide.
        mask_mpp: microns per pixel of the mask.
        slide_size: width and height in level-0 pixels.
        slide_mpp: microns per level-0 pixel.
        level_mpps: microns per pixel of each stored level, sharpest first.
        fingerprint: hash of the file that the tissue was read from and of the excluded classes;
            empty for tissue that was found.
        warning: why the tissue may be wrong; None if there is no reason to doubt it.
        classes: classes of the areas that the tissue was read from, with their numbers; empty for
            other tissue.
    """

    mask: Bool[np.ndarray, "h w"]
    mask_mpp: float
    slide_size: tuple[int, int]
    slide_mpp: float
    level_mpps: tuple[float, ...]
    fingerprint: str = ""
    warning: str | None = None
    classes: str = ""

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

    def _repr_png_(self) -> bytes:
        """Return a small PNG of the mask for notebooks; tissue is pink."""
        pixels = np.where(self.mask[..., None], TISSUE_COLOR, GLASS_COLOR).astype(np.uint8)
        width, height = self.slide_size
        scale = NOTEBOOK_PX / max(width, height)
        size = max(1, round(width * scale)), max(1, round(height * scale))
        encoded = io.BytesIO()
        Image.fromarray(pixels).resize(size, Image.Resampling.BOX).save(encoded, "PNG")
        return encoded.getvalue()

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
        return tissue_from_mask(slide, np.ones((1, 1), dtype=bool), max(slide.size) * slide.mpp)
    width, height = slide.size
    mpp = mask_mpp(slide)
    pixels = slide.read(Box(0, 0, width, height), mpp, stage="tissue")
    with slide.cost_meter.measure_time("tissue"):
        planes = np.ascontiguousarray(pixels.transpose(2, 0, 1))  # contiguous planes are faster
        brightness, spread = brightness_and_spread(planes)
        _check_transmitted_light(slide, brightness, spread)
        stained, faint = spread >= GRAY_SPREAD, 0.0
        if method == "otsu":
            stained, saturation = find_stain(planes, mpp)
        stained = stained & (brightness >= DARK)
        green = stained & _green_ink(planes)
        mask = _clean(stained & ~green, mpp)
        if method == "otsu" and mask.any():
            colored = mask | _clean(stained, mpp)
            faint = faint_share(saturation, brightness >= DARK, colored, mpp)
    advice = tissue_advice(from_cohort=slide.from_cohort)
    green_share = float(green.sum()) / max(1.0, float(stained.sum()))
    if not mask.any():
        reason = "nothing is colored enough to be stained"
        if green_share > MAX_GREEN:
            reason = "the colored area is green, like marker ink"
        elif spread.max() <= GRAY_PICTURE:
            reason = "the scan is gray, without any color"
        raise NoTissueError(
            f"{slide.name}: no tissue found, since {reason}. View the slide, and leave it out if "
            f"it is empty. If it has tissue, {advice}"
        )
    doubt = _doubt(mask, brightness, spread, green_share=green_share, faint=faint)
    warning = f"{slide.name}: {doubt}. If that is wrong, {advice}" if doubt else None
    return tissue_from_mask(slide, mask, slide.achieved_mpp(mpp), warning=warning)


def _doubt(
    mask: Bool[np.ndarray, "h w"],
    brightness: UInt8[np.ndarray, "h w"],
    spread: UInt8[np.ndarray, "h w"],
    *,
    green_share: float,
    faint: float,
) -> str:
    """Return why the tissue that was found may be wrong; empty if there is no reason to doubt it.

    Args:
        mask: the tissue.
        brightness: brightest channel of each pixel.
        spread: its difference from the darkest channel.
        green_share: share of the colored area that was left out as green ink.
        faint: share of the scan that may be faint stain and was left out.
    """
    share, dark_share = float(mask.mean()), float((brightness < DARK).mean())
    if not NEARLY_NONE <= share < ALL_OVER:
        found = f"{share:.1%}" if share > 0.01 else f"{100 * share:.1g}%"
        return f"tissue was found on {found} of the scan"
    if green_share > MAX_GREEN:
        return f"{green_share:.0%} of the colored area is green and was left out as marker ink"
    if faint:
        return (
            f"{faint:.1%} of the scan is faintly colored and was left out, because tissue or ink "
            "has a strong color"
        )
    if dark_share > MAX_DARK and not ((brightness - spread) >= GLASS).any():
        return (
            f"{dark_share:.0%} of the scan is dark and nothing is as bright as glass, as in "
            "fluorescence, which is not supported"
        )
    return ""


def tissue_from_mask(
    slide: Slide,
    mask: Bool[np.ndarray, "h w"],
    mpp: float,
    *,
    fingerprint: str = "",
    warning: str | None = None,
) -> Tissue:
    """Return the tissue of a slide from a mask over the whole slide, of `mpp`; see `Tissue`."""
    return Tissue(
        mask=mask,
        mask_mpp=mpp,
        slide_size=slide.size,
        slide_mpp=slide.mpp,
        level_mpps=tuple(slide.mpp * level.downsample for level in slide.levels),
        fingerprint=fingerprint,
        warning=warning,
    )


def mask_mpp(slide: Slide) -> float:
    """Return an mpp of about 16 that is a whole multiple of a stored level's, to read fast."""
    longest_um = max(slide.size) * slide.mpp
    target = max(slide.mpp, min(MASK_MPP, longest_um / MASK_SIDE_PX))
    stored = [slide.mpp * level.downsample for level in slide.levels]
    nearest = max(mpp for mpp in stored if mpp <= target * 1.05)
    return nearest * round(target / nearest)


def _check_transmitted_light(
    slide: Slide, brightness: UInt8[np.ndarray, "h w"], spread: UInt8[np.ndarray, "h w"]
) -> None:
    """Raise if the background is dark, as in fluorescence.

    Black outside the scan is no background: it leaves few pixels that are nearly black, and the
    pixels inside have light in all channels.
    """
    scanned = brightness > CANVAS
    num_scanned, num_dark = np.count_nonzero(scanned), np.count_nonzero(brightness < DARK)
    num_dark_scanned = num_dark - (brightness.size - num_scanned)
    if num_dark <= brightness.size / 2:
        return
    darkest = brightness - spread
    if np.count_nonzero(darkest >= GLASS) > MIN_GLASS * (brightness.size - num_dark):
        return  # the dark area is a canvas that is not quite black
    is_canvas = num_scanned and num_dark_scanned <= num_scanned / 2
    if is_canvas and np.median(darkest[scanned]) > MIN_TRANSMITTED:
        return
    raise NoTissueError(
        f"{slide.name}: more than half of the scan is nearly black, so it is not a stained "
        "slide in transmitted light. Fluorescence is not supported."
    )


def _green_ink(planes: UInt8[np.ndarray, "3 h w"]) -> Bool[np.ndarray, "h w"]:
    """Return where there is marker ink: no common stain has green as its strongest channel."""
    red, green, blue = planes
    other = np.maximum(red, blue)
    ink: Bool[np.ndarray, "h w"] = (green > other) & (green - other > GRAY_SPREAD)
    return ink


def _clean(mask: Bool[np.ndarray, "h w"], mpp: float) -> Bool[np.ndarray, "h w"]:
    """Set each pixel to the majority around it, which removes specks and fills pinholes."""
    radius = max(1, round(CLEAN_UM / 2 / mpp))
    majority = filter_in_strips(mask * np.uint8(255), ImageFilter.BoxBlur(radius), reach=radius)
    return majority > 127
