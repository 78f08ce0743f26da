"""The patches of a probe: places drawn on a slide, the same ones for every encoder."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from math import sqrt

import numpy as np
import torch
from jaxtyping import Float

from parfocal.encoders.encoder import Encoder
from parfocal.encoders.spec import ANY_MPP, EncoderSpec
from parfocal.features.header import SlideSettings
from parfocal.features.live import reading_threads
from parfocal.slide.slide import Box, Slide

PATCH_PX = 256  # of an encoder that was made for no size in particular
USUAL_MPP, ANY_ENCODER_MPP = 0.5, 1.0  # of pathology encoders; of one for any resolution
BLOCK = 64  # patches read at once; limits the memory

Clock = Callable[[], float]


@dataclass(frozen=True)
class PatchSize:
    """Resolution and size of the patches that an encoder gets.

    Args:
        mpp: resolution at which the patch is read, in µm per pixel.
        side_px: side of the patch, in pixels.
    """

    mpp: float
    side_px: int


@dataclass(frozen=True, eq=False)
class SlideFeatures:
    """The mean features of the places of a slide.

    Args:
        mean: mean over the patches.
        patches: number of patches.
        seconds_per_patch: time of encoding a patch, without reading it.
    """

    mean: Float[np.ndarray, " d"]
    patches: int
    seconds_per_patch: float


def patch_size_of(encoder: EncoderSpec, mpp: float | None) -> PatchSize:
    """Return the size of the patches for an encoder.

    Args:
        encoder: the encoder.
        mpp: resolution for all encoders; None for the encoder's own: 0.5 µm per pixel if it was
            made for that, else the middle of its range; 1 for an encoder for any resolution.
    """
    side = encoder.patch_px or PATCH_PX
    if mpp is not None:
        return PatchSize(mpp, side)
    low, high = encoder.mpp_range
    if (low, high) == ANY_MPP:
        return PatchSize(ANY_ENCODER_MPP, side)
    return PatchSize(USUAL_MPP if low <= USUAL_MPP <= high else sqrt(low * high), side)


def draw_places(
    slide: Slide, settings: SlideSettings, *, count: int, seed: int
) -> Float[np.ndarray, "n 2"]:
    """Draw patches of a slide without replacement, and return their centers.

    The draw depends on the content of the slide file, not on its name or on other slides.

    Args:
        slide: the slide.
        settings: which patches the slide has, at one magnification.
        count: number of patches; all if the slide has fewer.
        seed: seed of the draw.

    Returns:
        (x, y) in level-0 pixels, row by row.

    Raises:
        SlideError: the slide has no tissue, or the magnification does not fit it.
    """
    grid = settings.grid(slide)
    rows = np.flatnonzero(grid.valid(0))
    text = f"{seed} {slide.fingerprint}"
    generator = torch.Generator().manual_seed(int(sha256(text.encode()).hexdigest()[:15], 16))
    drawn = rows[np.sort(torch.randperm(len(rows), generator=generator)[:count].numpy())]
    boxes = grid.boxes(0, drawn)
    return np.array([(box.x + box.width / 2, box.y + box.height / 2) for box in boxes])


def encode_places(
    slide: Slide,
    centers: Float[np.ndarray, "n 2"],
    encoder: Encoder,
    size: PatchSize,
    *,
    clock: Clock = time.perf_counter,
) -> SlideFeatures:
    """Read the patches around some centers, and return the mean of their features.

    Args:
        slide: the slide.
        centers: (x, y) in level-0 pixels, at least one.
        encoder: the encoder.
        size: size of the patches.
        clock: returns seconds.

    Raises:
        SlideError: a patch cannot be read.
        ValueError: the resolution is finer than the scan.
    """
    mpp = slide.achieved_mpp(size.mpp)
    side = size.side_px * mpp / slide.mpp
    boxes = [Box(float(x) - side / 2, float(y) - side / 2, side, side) for x, y in centers]
    total, seconds = torch.zeros(encoder.spec.dim, dtype=torch.float64), 0.0
    with ThreadPoolExecutor(reading_threads()) as pool:
        for block in _blocks(boxes, max(BLOCK, encoder.batch_size)):
            pixels = np.stack(list(pool.map(lambda box: slide.read(box, mpp), block)))
            start = clock()
            features = encoder(pixels).cpu()  # waits for a GPU
            seconds += clock() - start
            total += features.double().sum(dim=0)
    mean = (total / len(boxes)).float().numpy()
    return SlideFeatures(mean, len(boxes), seconds / len(boxes))


def _blocks(boxes: Sequence[Box], size: int) -> list[Sequence[Box]]:
    return [boxes[start : start + size] for start in range(0, len(boxes), size)]
