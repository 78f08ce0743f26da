"""Small pyramids with known pixels, and a slow, plain area average to hold them against."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import tifffile

DATA = Path(__file__).parents[2] / "../shared/data"


@pytest.fixture
def real() -> Callable[[str], Path]:
    """A real slide, or a skip where the collection is not at hand."""

    def find(name: str) -> Path:
        path = DATA / name
        if not path.exists():
            pytest.skip(f"{name} is not at hand")
        return path

    return find


@pytest.fixture
def only_openslide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave to OpenSlide what would be read directly."""
    monkeypatch.setattr("parfocal.slide.slide.open_tiled", lambda *_: None)


@pytest.fixture(params=["direct", "openslide"])
def either_reader(request: pytest.FixtureRequest) -> None:
    """Read tiled TIFF in both ways."""
    if request.param == "openslide":
        request.getfixturevalue("only_openslide")


@pytest.fixture
def noise() -> np.ndarray:
    """The hardest picture to resample."""
    return np.random.default_rng(0).integers(0, 256, (301, 403, 3), dtype=np.uint8)


@pytest.fixture
def pyramid(tmp_path: Path) -> Callable[..., Path]:
    """Write lossless levels as a TIFF that OpenSlide opens."""

    def write(
        levels: Sequence[np.ndarray], mpp: float | None = 0.5, name: str = "slide.tif"
    ) -> Path:
        resolution = {} if mpp is None else {"resolution": (1e4 / mpp, 1e4 / mpp)}
        path = tmp_path / name
        with tifffile.TiffWriter(path) as tiff:
            for number, level in enumerate(levels):
                tiff.write(
                    level,
                    tile=(64, 64),
                    photometric="rgb",
                    compression="deflate",
                    resolutionunit="CENTIMETER" if mpp else "NONE",
                    subfiletype=min(number, 1),
                    metadata=None,
                    extrasamples=["unassalpha"] if level.shape[2] == 4 else None,
                    **resolution,
                )
        return path

    return write


def _shares(edges: np.ndarray, size: int) -> np.ndarray:
    """The share of each pixel in each interval, a row an interval."""
    pixels = np.arange(size)
    low, high = np.maximum(edges[:-1, None], pixels), np.minimum(edges[1:, None], pixels + 1)
    return (high - low).clip(0) / np.diff(edges)[:, None]


@pytest.fixture
def area_resize() -> Callable[..., np.ndarray]:
    """Average the area `size` (columns, rows) pixels from (x, y) cover, `step` each: plain."""

    def resize(
        pixels: np.ndarray, x: float, y: float, step: float, size: tuple[int, int]
    ) -> np.ndarray:
        rows = _shares(y + np.arange(size[1] + 1) * step, pixels.shape[0])
        columns = _shares(x + np.arange(size[0] + 1) * step, pixels.shape[1])
        by_row = np.einsum("ri,ijk->rjk", rows, pixels.astype(np.float64))
        return np.einsum("cj,rjk->rck", columns, by_row)

    return resize
