"""Slides of painted noise, large enough for several requests."""

import numpy as np
import pytest

from parfocal.slide.sources import page_fetcher
from parfocal.slide.write import write_pyramid

SIDE = 2048


@pytest.fixture(scope="session")
def noisy(tmp_path_factory):
    """Return a folder with noisy.tif, of about 8 MB at level 0."""
    path = tmp_path_factory.mktemp("served") / "noisy.tif"
    pixels = np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)

    def tile(column, row):
        return pixels[row * 256 : (row + 1) * 256, column * 256 : (column + 1) * 256]

    write_pyramid(path, tile, (SIDE, SIDE), mpp=0.5, downsamples=(1, 4))
    return path.parent


@pytest.fixture
def quick(monkeypatch):
    """Let failed requests be repeated without a wait."""
    monkeypatch.setattr(page_fetcher, "FIRST_WAIT_S", 0.0)
