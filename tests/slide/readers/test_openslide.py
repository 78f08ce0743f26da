from concurrent.futures import ThreadPoolExecutor

import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image

from parfocal.slide.errors import SlideError
from parfocal.slide.readers.openslide import OpenSlideScan
from parfocal.slide.slide import Box, open_slide

pytestmark = pytest.mark.usefixtures("only_openslide")

DAMAGED = Box(0, 0, 64, 64)
INTACT = Box(128, 128, 64, 64)


@pytest.fixture
def damaged(pyramid, noise):
    """Write a slide whose first tile is overwritten."""
    path = pyramid([noise])
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        offset, count = page.dataoffsets[0], page.databytecounts[0]
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * count)
    return path


def test_the_error_about_a_damaged_tile_names_the_place(damaged):
    with open_slide(damaged) as slide:
        message = (
            r"slide.tif: damaged at x=0, y=0 \(64 x 64 px of level 0\): .*. Copy the file again"
        )
        with pytest.raises(SlideError, match=message) as caught:
            slide.read(DAMAGED, 0.5)
        assert "\n" not in str(caught.value)


def test_intact_tiles_can_be_read_after_a_damaged_one(damaged, noise):
    with open_slide(damaged) as slide:
        for _ in range(2):
            with pytest.raises(SlideError, match="damaged"):
                slide.read(DAMAGED, 0.5)
            assert (slide.read(INTACT, 0.5) == noise[128:192, 128:192]).all()


def test_a_damaged_tile_in_one_thread_does_not_affect_other_threads(damaged, noise):
    def read(number):
        try:
            return slide.read(DAMAGED if number % 5 == 0 else INTACT, 0.5)
        except SlideError:
            return None

    with open_slide(damaged) as slide, ThreadPoolExecutor(4) as pool:
        results = list(pool.map(read, range(200)))
    assert all(result is None for result in results[::5])
    intact = [result for number, result in enumerate(results) if number % 5]
    assert all((result == noise[128:192, 128:192]).all() for result in intact)


def test_transparent_pixels_are_white_not_black(pyramid, noise, monkeypatch):
    make_transparent(monkeypatch)
    with open_slide(pyramid([noise])) as slide:
        pixels = slide.read(Box(0, 0, 64, 64), 0.5)
    assert (pixels[:32] == 255).all()
    assert (pixels[32:] == noise[32:64, :64]).all()


def test_transparent_pixels_take_the_files_background_color(pyramid, noise, monkeypatch):
    make_transparent(monkeypatch)
    properties = {
        openslide.PROPERTY_NAME_VENDOR: "mirax",
        openslide.PROPERTY_NAME_BACKGROUND_COLOR: "C0FFEE",
        openslide.PROPERTY_NAME_MPP_X: "0.24",
        openslide.PROPERTY_NAME_MPP_Y: "0.24",
    }
    monkeypatch.setattr(openslide.OpenSlide, "properties", properties)
    with open_slide(pyramid([noise])) as slide:
        assert slide.read(Box(0, 0, 8, 8), 0.5)[0, 0].tolist() == [0xC0, 0xFF, 0xEE]


def make_transparent(monkeypatch):
    """Make the upper half of what OpenSlide returns transparent, as where no tile is stored."""
    read = openslide.OpenSlide.read_region

    def read_region(self, location, level, size):
        rgba = np.array(read(self, location, level, size))
        rgba[: size[1] // 2] = 0
        return Image.fromarray(rgba)

    monkeypatch.setattr(openslide.OpenSlide, "read_region", read_region)


def test_the_mpp_of_pixels_that_are_nearly_square_is_averaged_and_reported(
    pyramid, noise, monkeypatch
):
    properties = {
        openslide.PROPERTY_NAME_VENDOR: "ventana",
        openslide.PROPERTY_NAME_MPP_X: "0.248",
        openslide.PROPERTY_NAME_MPP_Y: "0.252",
    }
    monkeypatch.setattr(openslide.OpenSlide, "properties", properties)
    with open_slide(pyramid([noise])) as slide:
        assert slide.mpp == 0.25
        assert slide.mpp_source == "file: openslide.mpp-x and mpp-y, averaged (0.248 and 0.252)"


def test_an_mpp_that_is_not_a_number_is_ignored(pyramid, noise, monkeypatch):
    properties = {
        openslide.PROPERTY_NAME_VENDOR: "generic-tiff",
        openslide.PROPERTY_NAME_MPP_X: "0,25",
    }
    monkeypatch.setattr(openslide.OpenSlide, "properties", properties)
    assert OpenSlideScan(pyramid([noise])).metadata.mpp is None


def test_the_error_about_a_file_that_openslide_cannot_open_gives_the_reason(pyramid, noise):
    path = pyramid([noise])
    path.write_bytes(b"nothing of the kind")
    message = r"slide.tif: OpenSlide supports the format but cannot open the file \(Unsupported"
    with pytest.raises(SlideError, match=message):
        OpenSlideScan(path)
