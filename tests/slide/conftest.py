"""Small slides with known pixels, and a slow, plain area average to compare with."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile

DATA = Path(__file__).parents[2] / "../shared/data"
SIDE = 64  # of a stored tile
APERIO = "Aperio Image Library v11.2.1\r\n440x304 [0,0 440x304] (64x64)|AppMag = 40|MPP = 0.25"


@pytest.fixture
def real() -> Callable[[str], Path]:
    """Return the path of a real slide; skip the test if the collection is not available."""

    def find(name: str) -> Path:
        path = DATA / name
        if not path.exists():
            pytest.skip(f"{name} is not available")
        return path

    return find


@pytest.fixture
def only_openslide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read tiled TIFF with OpenSlide."""
    monkeypatch.setattr("parfocal.slide.readers.opening.DIRECT_VENDORS", (None,))


@pytest.fixture(params=["direct", "openslide"])
def either_reader(request: pytest.FixtureRequest) -> None:
    """Read tiled TIFF directly and with OpenSlide."""
    if request.param == "openslide":
        request.getfixturevalue("only_openslide")


@pytest.fixture
def noise() -> np.ndarray:
    """Return random pixels, the hardest picture to resample."""
    return np.random.default_rng(0).integers(0, 256, (301, 403, 3), dtype=np.uint8)


@pytest.fixture
def pyramid(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes lossless levels as a TIFF that OpenSlide opens."""

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
    """Return the share of each pixel in each interval, one row per interval."""
    pixels = np.arange(size)
    low, high = np.maximum(edges[:-1, None], pixels), np.minimum(edges[1:, None], pixels + 1)
    return (high - low).clip(0) / np.diff(edges)[:, None]


@pytest.fixture
def area_resize() -> Callable[..., np.ndarray]:
    """Return a plain area average of `size` (columns, rows) pixels from (x, y), `step` each."""

    def resize(
        pixels: np.ndarray, x: float, y: float, step: float, size: tuple[int, int]
    ) -> np.ndarray:
        rows = _shares(y + np.arange(size[1] + 1) * step, pixels.shape[0])
        columns = _shares(x + np.arange(size[0] + 1) * step, pixels.shape[1])
        by_row = np.einsum("ri,ijk->rjk", rows, pixels.astype(np.float64))
        return np.einsum("cj,rjk->rck", columns, by_row)

    return resize


@pytest.fixture(scope="session")
def picture() -> np.ndarray:
    """Return 440 x 304 px in random blocks of 8 px, which JPEG preserves; all tiles differ."""
    blocks = np.random.default_rng(0).integers(0, 256, (38, 55, 3), dtype=np.uint8)
    return blocks.repeat(8, axis=0).repeat(8, axis=1)


@pytest.fixture
def plain(tmp_path: Path, picture: np.ndarray) -> Callable[..., Path]:
    """Return a function that writes a plain pyramid of two levels in any encoding."""

    def write(pixels: np.ndarray = picture, **options: object) -> Path:
        path = tmp_path / "plain.tif"
        with tifffile.TiffWriter(path) as tiff:
            for step in (1, 2):
                defaults = {
                    "tile": (SIDE, SIDE),
                    "photometric": "rgb",
                    "subfiletype": step - 1,
                    "resolution": (2e4 / step, 2e4 / step),
                    "resolutionunit": "CENTIMETER",
                    "metadata": None,
                }
                tiff.write(pixels[::step, ::step], **{**defaults, **options})
        return path

    return write


@pytest.fixture
def aperio(tmp_path: Path, picture: np.ndarray) -> Callable[[str], Path]:
    """Return a function that writes an Aperio file: two levels and a thumbnail in strips."""

    def write(encoding: str) -> Path:
        path = tmp_path / "aperio.svs"
        with tifffile.TiffWriter(path) as tiff:
            for step in (1, 4, 2):
                pixels = np.ascontiguousarray(picture[::step, ::step])
                description = APERIO if step == 1 else f"{APERIO} -> {pixels.shape[1]}x"
                if step == 4:
                    tiff.write(pixels, photometric="rgb", rowsperstrip=16, metadata=None)
                elif encoding == "JPEG":
                    _write_bare_jpeg(tiff, pixels, description)
                else:
                    tiff.write(
                        pixels,
                        tile=(SIDE, SIDE),
                        photometric="rgb",
                        compression=encoding,
                        description=description,
                        metadata=None,
                    )
        return path

    return write


def _write_bare_jpeg(tiff: tifffile.TiffWriter, pixels: np.ndarray, description: str) -> None:
    """Write RGB JPEG tiles without a color marker, with their tables in a tag."""
    tables, tiles = zip(*map(_abbreviated, _tiles(pixels)), strict=True)
    tiff.write(
        iter(tiles),
        shape=pixels.shape,
        dtype=np.uint8,
        tile=(SIDE, SIDE),
        photometric="rgb",
        compression="jpeg",
        compressionargs={"outcolorspace": "rgb"},
        description=description,
        extratags=[(347, 7, len(tables[0]), tables[0], True)],
        metadata=None,
    )


def _tiles(pixels: np.ndarray) -> Iterator[np.ndarray]:
    height, width, _ = pixels.shape
    padded = np.pad(pixels, ((0, -height % SIDE), (0, -width % SIDE), (0, 0)), mode="edge")
    for y in range(0, height, SIDE):
        for x in range(0, width, SIDE):
            yield np.ascontiguousarray(padded[y : y + SIDE, x : x + SIDE])


def _abbreviated(tile: np.ndarray) -> tuple[bytes, bytes]:
    """Encode a tile as RGB, separate its tables from the rest, and drop other markers."""
    jpeg = imagecodecs.jpeg8_encode(tile, level=80, colorspace="RGB", outcolorspace="RGB")
    tables, rest, at = b"", b"", 2
    while jpeg[at + 1] != 0xDA:  # start of scan
        end = at + 2 + int.from_bytes(jpeg[at + 2 : at + 4])
        tables += jpeg[at:end] if jpeg[at + 1] in (0xDB, 0xC4) else b""
        rest += jpeg[at:end] if jpeg[at + 1] == 0xC0 else b""
        at = end
    return b"\xff\xd8" + tables + b"\xff\xd9", b"\xff\xd8" + rest + jpeg[at:]
