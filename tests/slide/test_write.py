import tracemalloc
from itertools import pairwise

import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image

from parfocal.slide.write import default_downsamples, write_pyramid


def smooth(width, height, seed=0):
    """Return a picture that JPEG preserves well: a few large spots of color."""
    spots = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(spots).resize((width, height), Image.Resampling.BICUBIC))


def tiles_of(pixels, side=256):
    """Return a function that returns the tiles of a picture, smaller at its edges."""
    return lambda column, row: pixels[
        row * side : (row + 1) * side, column * side : (column + 1) * side
    ]


def level_of(path, level):
    with openslide.OpenSlide(path) as slide:
        size = slide.level_dimensions[level]
        return np.asarray(slide.read_region((0, 0), level, size).convert("RGB"))


@pytest.mark.parametrize("mpp", [0.25, 0.2428, 1.0])
def test_openslide_reads_the_mpp_and_the_levels(tmp_path, mpp):
    path = tmp_path / "slide.tif"
    write_pyramid(path, tiles_of(smooth(1300, 1100)), (1300, 1100), mpp=mpp)
    with openslide.OpenSlide(path) as slide:
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(mpp, rel=1e-6)
        assert float(slide.properties["openslide.mpp-y"]) == pytest.approx(mpp, rel=1e-6)
        assert slide.level_dimensions == ((1300, 1100), (650, 550), (325, 275))


@pytest.mark.parametrize("downsamples", [(1, 2, 4, 8), (1, 4, 16), (1, 4, 8, 32)])
@pytest.mark.parametrize("size", [(1024, 768), (1301, 1027)])
def test_every_level_is_the_area_average_of_the_first(tmp_path, size, downsamples):
    path, pixels = tmp_path / "slide.tif", smooth(*size)
    fidelity = {"quality": 95, "subsampling": "4:4:4"}
    write_pyramid(path, tiles_of(pixels), size, mpp=1, downsamples=downsamples, **fidelity)
    for level, ratio in enumerate(downsamples):
        width, height = size[0] // ratio, size[1] // ratio
        blocks = pixels[: height * ratio, : width * ratio].reshape(height, ratio, width, ratio, 3)
        difference = level_of(path, level) - blocks.mean(axis=(1, 3))
        assert np.abs(difference).mean() < 2.5
        assert np.abs(difference).max() < 24


def test_colors_are_not_swapped(tmp_path):
    color = np.array([200, 30, 90], dtype=np.uint8)
    path = tmp_path / "slide.tif"
    write_pyramid(path, lambda *_: np.tile(color, (256, 256, 1)), (300, 300), mpp=1)
    assert np.abs(level_of(path, 0) - color.astype(float)).max() <= 2
    assert np.abs(tifffile.imread(path) - color.astype(float)).max() <= 2


def test_full_color_resolution_is_an_option(tmp_path):
    checks = np.zeros((256, 256, 3), dtype=np.uint8)
    checks[:, ::2, 0] = checks[:, 1::2, 2] = 255
    error = {}
    for subsampling in ("4:4:4", "4:2:0"):
        path = tmp_path / "slide.tif"
        write_pyramid(path, lambda *_: checks, (256, 256), mpp=1, subsampling=subsampling)
        error[subsampling] = np.abs(level_of(path, 0) - checks.astype(float)).mean()
    assert error["4:4:4"] < error["4:2:0"] / 3


def test_threads_do_not_change_a_byte(tmp_path):
    one, two = tmp_path / "one.tif", tmp_path / "two.tif"
    for path, threads in ((one, 1), (two, 2)):
        write_pyramid(path, tiles_of(smooth(1300, 1100)), (1300, 1100), mpp=1, threads=threads)
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.slow
def test_memory_grows_with_the_width_not_the_area(tmp_path):
    textured = np.random.default_rng(0).integers(200, 216, (256, 256, 3), dtype=np.uint8)
    peaks = []
    for side in (2048, 8192):
        tracemalloc.start()
        write_pyramid(tmp_path / "slide.tif", lambda *_: textured, (side, side), mpp=1, quality=50)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 6 * peaks[0]  # 16 times the pixels
    assert peaks[1] < 8192 * 8192 * 3 / 8


def test_a_slide_above_four_gigabytes_is_a_bigtiff(tmp_path, monkeypatch):
    monkeypatch.setattr("parfocal.slide.write.CLASSIC_LIMIT", 1000)
    path = tmp_path / "slide.tif"
    write_pyramid(path, tiles_of(smooth(600, 600)), (600, 600), mpp=0.5)
    with tifffile.TiffFile(path) as tiff:
        assert tiff.is_bigtiff
    with openslide.OpenSlide(path) as slide:
        assert slide.level_dimensions == ((600, 600), (300, 300))


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_error_leaves_the_existing_file_unchanged(tmp_path, error):
    path = tmp_path / "slide.tif"
    path.write_text("before")

    def tile(column, row):
        if row == 2:
            raise error
        return smooth(256, 256)

    with pytest.raises(KeyboardInterrupt if error is KeyboardInterrupt else OSError) as caught:
        write_pyramid(path, tile, (512, 1024), mpp=1, downsamples=(1,))
    assert [entry.name for entry in tmp_path.iterdir()] == ["slide.tif"]
    assert path.read_text() == "before"
    if caught.type is OSError:
        assert f"No space left on device; nothing was written: '{path}'" in str(caught.value)


def test_the_default_pyramid_ends_below_512_pixels():
    assert default_downsamples((40_000, 30_000)) == (1, 2, 4, 8, 16, 32, 64)
    assert default_downsamples((300, 300)) == (1,)
    assert all(below == 2 * above for above, below in pairwise(default_downsamples((9000, 9000))))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mpp": 0}, "with 0 µm per pixel"),
        ({"mpp": 1, "tile_size": 100}, "multiple of 16, not 100"),
        ({"mpp": 1, "downsamples": (1, 3)}, "such as 1, 4, 16; not 1, 3"),
        ({"mpp": 1, "downsamples": (2, 4)}, "must begin with 1"),
        ({"mpp": 1, "downsamples": (1, 256, 1024)}, "too small for a level at 1/1024"),
    ],
)
def test_invalid_settings_are_refused(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        write_pyramid(tmp_path / "slide.tif", tiles_of(smooth(600, 600)), (600, 600), **settings)


def test_a_tile_that_is_too_small_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"tile\(1, 0\) returned 10 x 10 pixels, but 44 x 256"):
        write_pyramid(
            tmp_path / "slide.tif",
            lambda column, row: smooth(256, 256) if column == 0 else smooth(10, 10),
            (300, 300),
            mpp=1,
        )
