"""Tell stain from glass by the saturation of the pixels: a low-resolution picture -> a mask.

Glass is gray and stain is colored. Otsu's threshold on the saturation separates them, unless the
picture has no glass, the stain is faint, or the glass is tinted; these cases are recognized.
"""

from concurrent.futures import ThreadPoolExecutor
from math import ceil

import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt8
from PIL import Image, ImageFilter

from parfocal.threads import thread_count

Plane = UInt8[np.ndarray, "h w"]
Planes = UInt8[np.ndarray, "3 h w"]
Mask = Bool[np.ndarray, "h w"]
Counts = Int64[np.ndarray, "256"]

SMOOTH_UM = 16.0
BESIDE_UM = 128.0  # width of the blurred edge around tissue
# Out of 255. Compression alone gives glass a saturation of up to 10. Above 35 is stain on any
# slide, even where ink, blood or dark tissue pull Otsu's threshold higher.
MIN_SATURATION, MAX_SATURATION = 15, 35
DARK = 50  # out of 255: ink, dark folds and the black outside a scan have no usable color
CANVAS = 8  # out of 255: black that a scanner writes where it did not scan, with compression noise
CANVAS_SPREAD = 2  # largest difference of the channels of a gray or white canvas
MAX_THREADS = 4

# Share of glass below Otsu's threshold, under which it separates tissue from tissue. Measured: 0.85
# or more on scans with glass around the tissue, 0.73 or less on crops inside a section.
MIN_GLASS_SHARE = 0.8
# A saturation below the usual minimum is stain if it is clearly separate from that of the glass:
# difference of the two means, Otsu's separability (0.64 for noise, 0.75 for light that changes
# evenly over the scan), and share of the scan.
FAINT_CONTRAST, FAINT_SEPARABILITY, FAINT_SHARES = 6.0, 0.78, (0.002, 0.8)
# Faint color beside tissue is worth a warning if it is as large as a patch of 224 pixels at 10x and
# as this share of the tissue. Less is dust, glue or a shadow.
FAINT_SIDE_UM, FAINT_SHARE_OF_FOUND = 224.0, 0.05
# Glass is bright and flat: neighboring pixels of the smoothed picture differ by at most 1. Flat
# glass above the first saturation is tinted, if there is more of it than the second share of the
# scan, and less neutral glass than the third.
BRIGHT, MAX_STEP = 180, 1
TINTED_SATURATION, MIN_TINTED, MAX_NEUTRAL = 10, 0.05, 0.01


def faint_share(saturation: Plane, scanned: Mask, found: Mask, mpp: float) -> float:
    """Return the share of the scan that may be faint stain beside what was found; 0 if it is small.

    Args:
        saturation: smoothed saturation of the scan on white glass.
        scanned: the pixels of the scan.
        found: the tissue that was found. Pixels close to it do not count.
        mpp: microns per pixel.
    """
    reach = ImageFilter.BoxBlur(max(1, round(BESIDE_UM / mpp)))
    near = filter_in_strips(found * np.uint8(255), reach, reach=round(BESIDE_UM / mpp) + 1)
    counts = _count(saturation, scanned & (near == 0))
    if np.count_nonzero(counts) < 2:
        return 0.0
    threshold = otsu_threshold(counts)
    num_faint = int(counts[threshold + 1 :].sum())
    least = max((FAINT_SIDE_UM / mpp) ** 2, FAINT_SHARE_OF_FOUND * np.count_nonzero(found))
    if num_faint < least or not _is_separate(counts, threshold):
        return 0.0
    return num_faint / max(1, int(np.count_nonzero(scanned)))


def find_stain(planes: Planes, mpp: float) -> tuple[Mask, Plane]:
    """Return where there is stain, and the smoothed saturation, as it is on white glass.

    Args:
        planes: red, green and blue.
        mpp: microns per pixel.
    """
    saturation = _smooth_saturation(planes, mpp)
    scanned = planes.max(axis=0) > CANVAS
    counts = _count(saturation, scanned)
    if otsu_threshold(counts) < MIN_SATURATION:
        return _find_faint_stain(planes, saturation, scanned, mpp)
    threshold = choose_threshold(counts)
    doubtful = counts[threshold + 1 : MAX_SATURATION + 1].sum()
    if doubtful > MIN_TINTED * counts.sum():
        canvas = _find_canvas(planes)
        glass = _find_glass(planes, saturation, mpp) & ~canvas
        if _is_tinted(glass, saturation, num_scanned=int(counts.sum())):
            tinted = glass & (saturation > TINTED_SATURATION)
            planes = _divide_by_color(planes, tinted, canvas)
            saturation = _smooth_saturation(planes, mpp)
            threshold = choose_threshold(_count(saturation, scanned))
    stained: Mask = saturation > threshold
    return stained, saturation


def brightness_and_spread(planes: Planes) -> tuple[Plane, Plane]:
    """Return the brightest channel of each pixel, and its difference from the darkest."""
    brightest = planes.max(axis=0)
    return brightest, brightest - planes.min(axis=0)


def saturation_of(
    brightness: UInt8[np.ndarray, "*s"], spread: UInt8[np.ndarray, "*s"]
) -> UInt8[np.ndarray, "*s"]:
    """Return spread divided by brightness, times 255, rounded down."""
    # No quotient of these values is rounded up to a whole number in 32 bits.
    share: Float32[np.ndarray, "*s"] = spread * np.float32(255) / np.maximum(brightness, 1)
    return share.astype(np.uint8)


def choose_threshold(counts: Counts) -> int:
    """Return the saturation above which a pixel is stain.

    Args:
        counts: number of pixels of each smoothed saturation.
    """
    otsu = otsu_threshold(counts)
    glass, below = counts[: MIN_SATURATION + 1].sum(), counts[: otsu + 1].sum()
    if otsu < MIN_SATURATION or glass < MIN_GLASS_SHARE * below:
        return MIN_SATURATION
    return min(otsu, MAX_SATURATION)


def otsu_threshold(counts: Counts) -> int:
    """Return the value that best splits a histogram in two (Otsu 1979)."""
    weights, values = counts.astype(np.float64), np.arange(len(counts))
    below, total = weights.cumsum(), weights.sum()
    first_moment = (weights * values).cumsum()
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (first_moment[-1] * below / total - first_moment) ** 2 / (below * (total - below))
    return int(np.nanargmax(np.where(below * (total - below) > 0, between, 0.0)))


def _find_faint_stain(
    planes: Planes, saturation: Plane, scanned: Mask, mpp: float
) -> tuple[Mask, Plane]:
    """Return where there is stain, if any, on a scan whose colors are all weak."""
    canvas = _find_canvas(planes)
    glass = _find_glass(planes, saturation, mpp) & ~canvas
    if glass.any():
        saturation = _smooth_saturation(_divide_by_color(planes, glass, canvas), mpp)
    counts = _count(saturation, scanned)
    threshold = otsu_threshold(counts)
    if threshold >= MIN_SATURATION or not _is_separate(counts, threshold):
        threshold = choose_threshold(counts)
    stained: Mask = saturation > threshold
    return stained, saturation


def _is_separate(counts: Counts, threshold: int) -> bool:
    """Return whether a threshold separates two kinds of pixels, not the noise of one."""
    values, total = np.arange(len(counts)), counts.sum()
    above = counts * (values > threshold)
    share = above.sum() / total
    if not FAINT_SHARES[0] <= share <= FAINT_SHARES[1]:
        return False
    high = (above * values).sum() / above.sum()
    low = ((counts - above) * values).sum() / (total - above.sum())
    mean = (counts * values).sum() / total
    variance = (counts * (values - mean) ** 2).sum() / total
    separability = share * (1 - share) * (high - low) ** 2 / variance
    return bool(high - low >= FAINT_CONTRAST and separability >= FAINT_SEPARABILITY)


def _find_glass(planes: Planes, saturation: Plane, mpp: float) -> Mask:
    """Return where a picture is bright, flat and at most weakly colored."""
    brightness, spread = brightness_and_spread(planes)
    glass: Mask = (brightness >= BRIGHT) & (saturation <= MAX_SATURATION)
    glass &= _is_flat(saturation) & _is_flat(_smooth(brightness - spread, mpp))
    return glass


def _is_tinted(glass: Mask, saturation: Plane, *, num_scanned: int) -> bool:
    """Return whether the glass of a scan is tinted."""
    num_tinted = np.count_nonzero(glass & (saturation > TINTED_SATURATION))
    num_neutral = np.count_nonzero(glass) - num_tinted
    return bool(num_tinted > MIN_TINTED * num_scanned and num_neutral < MAX_NEUTRAL * num_scanned)


def _count(saturation: Plane, scanned: Mask) -> Counts:
    """Count the pixels of each saturation on the scan."""
    counts: Counts = np.bincount(saturation[scanned], minlength=256)
    return counts


def _divide_by_color(planes: Planes, glass: Mask, canvas: Mask) -> Planes:
    """Return a picture as it is on white glass, from the median color of its glass."""
    color = np.median(planes[:, glass], axis=1).astype(np.float32)
    scaled = np.rint(planes * (np.float32(255) / color)[:, None, None])
    divided: Planes = np.minimum(scaled, 255).astype(np.uint8)
    divided[:, canvas] = planes[:, canvas]
    return divided


def _find_canvas(planes: Planes) -> Mask:
    """Return where a picture is of one gray, which a scanner writes where it did not scan."""
    brightness, spread = brightness_and_spread(planes)
    picture = Image.fromarray(brightness)
    highest = np.asarray(picture.filter(ImageFilter.MaxFilter(3)))
    lowest = np.asarray(picture.filter(ImageFilter.MinFilter(3)))
    canvas: Mask = (brightness <= CANVAS) | ((spread <= CANVAS_SPREAD) & (highest == lowest))
    return canvas


def _smooth_saturation(planes: Planes, mpp: float) -> Plane:
    """Return the smoothed saturation; a pixel too dark to have a color counts as 0."""
    brightness, spread = brightness_and_spread(planes)
    saturation = saturation_of(brightness, spread)
    saturation[brightness < DARK] = 0
    return _smooth(saturation, mpp)


def _is_flat(smoothed: Plane) -> Mask:
    """Return where a pixel differs by at most `MAX_STEP` from its four neighbors."""
    signed = smoothed.astype(np.int16)
    flat = np.ones(smoothed.shape, dtype=bool)
    across = np.abs(np.diff(signed, axis=1)) <= MAX_STEP
    down = np.abs(np.diff(signed, axis=0)) <= MAX_STEP
    flat[:, 1:] &= across
    flat[:, :-1] &= across
    flat[1:] &= down
    flat[:-1] &= down
    return flat


def _smooth(picture: Plane, mpp: float) -> Plane:
    sigma = SMOOTH_UM / mpp
    return filter_in_strips(picture, ImageFilter.GaussianBlur(sigma), reach=3 * (ceil(sigma) + 1))


def filter_in_strips(picture: Plane, kernel: ImageFilter.Filter, *, reach: int) -> Plane:
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
