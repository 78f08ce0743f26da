import io

import numpy as np
import pytest
from PIL import Image

from parfocal.slide.errors import NoTissueError
from parfocal.slide.slide import slide_from_array
from parfocal.slide.stain import choose_threshold, saturation_of
from parfocal.slide.tissue import find_tissue

STAIN = (190, 90, 160)
GLASS = (242, 241, 237)
HEIGHT, WIDTH = 300, 400
BLOCK = slice(75, 225), slice(100, 300)  # a quarter of the picture
INSIDE = slice(80, 220), slice(105, 295)


def noisy(color, deviation=2, *, size=(HEIGHT, WIDTH), seed=0):
    """Return a picture of one color with the noise of a camera."""
    values = np.random.default_rng(seed).normal(color, deviation, (*size, 3))
    return np.clip(values, 0, 255).round().astype(np.uint8)


def with_block(color, *, glass=GLASS, deviation=2):
    pixels = noisy(glass)
    pixels[BLOCK] = noisy(color, deviation, size=(150, 200), seed=1)
    return pixels


def mask_of(pixels):
    return find_tissue(slide_from_array(pixels, mpp=16.0)).mask


def assert_the_block_is_found(mask):
    assert mask[INSIDE].mean() > 0.97
    assert mask.mean() == pytest.approx(0.25, abs=0.015)


def test_saturation_is_spread_divided_by_brightness_rounded_down():
    brightness, spread = np.meshgrid(np.arange(1, 256), np.arange(256), indexing="ij")
    possible = spread <= brightness
    brightness, spread = brightness[possible], spread[possible]
    saturation = saturation_of(brightness.astype(np.uint8), spread.astype(np.uint8))
    assert (saturation == spread * 255 // brightness).all()


def histogram(*peaks):
    """Return counts with a number of pixels at each saturation."""
    counts = np.zeros(256, dtype=np.int64)
    for saturation, number in peaks:
        counts[saturation] = number
    return counts


@pytest.mark.parametrize(
    ("peaks", "threshold"),
    [
        pytest.param([(2, 900), (20, 100), (60, 100)], 20, id="Otsu's"),
        pytest.param([(2, 900), (60, 100)], 15, id="below the minimum"),
        pytest.param([(2, 900), (50, 20), (200, 100)], 35, id="above the maximum"),
        pytest.param([(2, 100), (30, 300), (90, 600)], 15, id="little glass below it"),
        pytest.param([(40, 300), (90, 600)], 15, id="no glass below it"),
    ],
)
def test_the_threshold_is_otsus_between_glass_and_stain(peaks, threshold):
    assert choose_threshold(histogram(*peaks)) == threshold


def test_a_crop_inside_a_section_is_nearly_all_tissue():
    pixels = noisy((225, 185, 205), 12)
    pixels[:, :200] = noisy((120, 60, 140), 25, size=(HEIGHT, 200))
    pixels[:20] = noisy(GLASS, size=(20, WIDTH))
    mask = mask_of(pixels)
    assert mask[25:].mean() > 0.99
    assert not mask[:15].any()


@pytest.mark.parametrize("color", [(228, 180, 205), (200, 120, 170), (140, 90, 150)])
def test_a_scan_that_is_all_tissue_of_one_color_is_all_tissue(color):
    assert mask_of(noisy(color)).all()


@pytest.mark.parametrize("color", [(240, 230, 238), (236, 228, 234), (235, 205, 220)])
def test_faint_stain_is_found(color):
    assert_the_block_is_found(mask_of(with_block(color)))


def test_faint_textured_stain_is_found():
    texture = np.random.default_rng(2).normal(0, 5, (150, 200, 1)) * (0.5, 1.2, 0.6)
    pixels = with_block((236, 226, 234), deviation=1)
    pixels[BLOCK] = np.clip(pixels[BLOCK] + texture, 0, 255)
    assert_the_block_is_found(mask_of(pixels))


def uneven(shading):
    """Return empty glass whose light changes over the scan."""
    return np.clip(noisy((244, 243, 240)) - shading, 0, 255).astype(np.uint8)


def empty_scans():
    across = np.linspace(0, 1, WIDTH)[None, :, None]
    y, x = np.mgrid[-1 : 1 : HEIGHT * 1j, -1 : 1 : WIDTH * 1j]
    tiles = np.random.default_rng(3).integers(0, 8, (6, 8, 3)).repeat(50, 0).repeat(50, 1)
    yield "noise", noisy(GLASS, 8)
    for quality in (30, 50, 75, 90):
        file = io.BytesIO()
        Image.fromarray(noisy(GLASS, 5)).save(file, "jpeg", quality=quality)
        yield f"JPEG {quality}", np.asarray(Image.open(file))
    yield "yellow to one side", uneven(across * (0, 4, 14))
    yield "dark corners", uneven((x**2 + y**2)[..., None] * (8, 9, 12))
    yield "stitched tiles", uneven(tiles)
    for color in ((240, 232, 215), (250, 225, 230), (225, 235, 245), (200, 195, 185)):
        yield f"tint {color}", noisy(color)


@pytest.mark.parametrize(
    "pixels", [pytest.param(pixels, id=name) for name, pixels in empty_scans()]
)
def test_empty_glass_of_any_kind_has_no_tissue(pixels):
    with pytest.raises(NoTissueError, match="no tissue found"):
        mask_of(pixels)


@pytest.mark.parametrize(
    "glass", [(240, 232, 215), (250, 225, 230), (225, 238, 222), (215, 225, 240), (200, 195, 180)]
)
def test_tissue_on_tinted_glass_is_found(glass):
    assert_the_block_is_found(mask_of(with_block(STAIN, glass=glass)))


@pytest.mark.parametrize("canvas", [0, 4, 128, 200, 255])
def test_tinted_glass_inside_a_canvas_is_not_tissue(canvas):
    pixels = np.full((HEIGHT, 2 * WIDTH, 3), canvas, dtype=np.uint8)
    pixels[:, :WIDTH] = with_block(STAIN, glass=(240, 232, 215))
    mask = mask_of(pixels)
    assert_the_block_is_found(mask[:, :WIDTH])
    assert not mask[:, WIDTH + 5 :].any()


@pytest.mark.parametrize(
    "ink", [pytest.param((20, 20, 25), id="black"), pytest.param((20, 160, 60), id="green")]
)
def test_ink_beside_pale_tissue_is_not_tissue(ink):
    pixels = with_block((230, 190, 212))
    pixels[20:50, 50:350] = ink
    mask = mask_of(pixels)
    assert mask[INSIDE].all()
    assert not mask[:60].any()


@pytest.mark.parametrize(
    "color",
    [
        pytest.param((150, 20, 30), id="blood"),
        pytest.param((30, 60, 180), id="blue ink"),
        pytest.param((210, 30, 40), id="red ink"),
    ],
)
def test_a_strong_color_does_not_hide_pale_tissue(color):
    pixels = with_block((230, 190, 212))
    pixels[20:50, 50:350] = color
    assert mask_of(pixels)[INSIDE].all()


def test_a_black_border_on_one_side_does_not_hide_pale_tissue():
    pixels = with_block((230, 190, 212))
    pixels[:, 340:] = (3, 2, 4)
    mask = mask_of(pixels)
    assert mask[INSIDE].all()
    assert not mask[:, 345:].any()
