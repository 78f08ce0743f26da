"""Pixel sources for tests of models: random pictures that are tissue, except for some glass."""

import numpy as np

from parfocal.features.pixels import SlidePixels
from parfocal.slide.slide import Slide, slide_from_array
from parfocal.slide.tissue import Tissue


def picture(width: int = 96, height: int = 64, *, seed: int = 0) -> Slide:
    """Return a slide at 10x in random blocks of 8 pixels."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return slide_from_array(blocks.repeat(8, axis=0).repeat(8, axis=1), mpp=1.0)


def source(slide: Slide, *, glass: int = 0) -> SlidePixels:
    """Return the pixels of a slide, with `glass` columns of glass at the left."""
    mask = np.ones(slide.size[::-1], dtype=bool)
    mask[:, :glass] = False
    return SlidePixels(slide, Tissue(mask, slide.mpp, slide.size, slide.mpp, (slide.mpp,)))
