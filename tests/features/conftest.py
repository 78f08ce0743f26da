import numpy as np
import pytest

from parfocal.encoders.encoder import Encoder
from parfocal.encoders.loading import load_encoder
from parfocal.features.header import SlideSettings
from parfocal.grid import PatchGrid
from parfocal.slide.slide import Slide, slide_from_array


@pytest.fixture
def slide() -> Slide:
    pixels = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    return slide_from_array(pixels, mpp=0.5)


@pytest.fixture
def grid() -> PatchGrid:
    """6, 24 and 384 patches of 128, 64 and 16 level-0 pixels; 24, 15 and 247 + some exist."""
    return PatchGrid(
        mpps=(4.0, 2.0, 0.5),
        patch_size=16,
        slide_size=(300, 200),
        slide_mpp=0.5,
        roots=np.array([[0, 0], [1, 0], [2, 0], [0, 1], [1, 1], [2, 1]]),
        sharpest_patches=200,
    )


@pytest.fixture
def settings() -> SlideSettings:
    return SlideSettings(magnifications=(2.5, 5.0, 20.0), patch_size=16)


@pytest.fixture
def encoder() -> Encoder:
    return load_encoder("tiny")
