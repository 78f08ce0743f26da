"""Crops contain the pixels of squares, without gray."""

import numpy as np
import pytest
import torch
from torch import Tensor

from parfocal.cost import CostMeter
from parfocal.features.pixels import SlidePixels
from parfocal.models.layers.crops import Crops, without_gray
from parfocal.models.layers.squares import WHOLE, from_parent
from parfocal.models.magnet.multisampling import bilinear
from parfocal.slide.slide import slide_from_array
from parfocal.slide.tissue import find_tissue

WHOLE_SQUARE = torch.tensor([[WHOLE]])


@pytest.fixture
def source():
    """Make pixel sources from arrays, and close them after the test."""
    made = []

    def make(pixels: np.ndarray, cost_meter: CostMeter | None = None) -> SlidePixels:
        tissue = find_tissue(slide_from_array(pixels, mpp=1.0))
        made.append(SlidePixels(slide_from_array(pixels, mpp=1.0, cost_meter=cost_meter), tissue))
        return made[-1]

    yield make
    for each in made:
        each.close()


def smooth(width: int, height: int) -> np.ndarray:
    """Return pixels whose colors change slowly; none is gray."""
    y, x = np.mgrid[:height, :width] / max(width, height)
    return np.stack([160 + 60 * x, 40 + 60 * y, 100 + 40 * np.sin(3 * (x + y))], -1).astype(
        np.uint8
    )


def read(source: SlidePixels, square: Tensor, side_px: int, *, gray_spread: int = 0) -> Tensor:
    """Return the pixels of one square, without its margin."""
    crops = Crops.request([source], square, side_px=side_px, step=0)
    return crops.downscaled(crops.images(gray_spread), side_px)[0, 0]


@pytest.mark.parametrize(("spread", "expected"), [(14, 0.0), (15, 115 / 255), (16, 116 / 255)])
def test_pixels_whose_color_range_is_below_15_become_black(spread, expected):
    pixel = torch.tensor([100 + spread, 100, 105], dtype=torch.uint8).view(1, 3, 1, 1)
    assert without_gray(pixel, 15)[0, 0].item() == pytest.approx(expected)


def test_a_slide_that_is_not_square_is_padded_with_black_on_both_sides(source):
    picture = read(source(smooth(448, 224)), WHOLE_SQUARE, 56)
    rows = picture.sum(dim=(0, 2)) > 0
    assert rows.tolist() == [False] * 14 + [True] * 28 + [False] * 14


def test_gray_pixels_become_black(source):
    pixels = smooth(224, 224)
    pixels[:112] = 240
    picture = read(source(pixels), WHOLE_SQUARE, 56, gray_spread=15)
    assert picture[:, :28].sum() == 0
    assert (picture[:, 28:].sum(dim=0) > 0).all()


def test_a_square_sampled_from_a_crop_is_the_square_read_directly(source):
    slide = source(smooth(2000, 1600))
    outer = from_parent(WHOLE_SQUARE, torch.tensor([[[0.5, 0.2, -0.1]]]))
    inner = from_parent(outer, torch.tensor([[[0.4, -0.3, 0.25]]]))
    crops = Crops.request([slide], outer, side_px=112, step=1)
    grid = crops.sampling_grid(inner[:, :, None], 56)
    sampled = bilinear(crops.images(0)[0], grid[0])[0, 0]
    torch.testing.assert_close(sampled, read(slide, inner, 56), atol=2.5 / 255, rtol=0)


def test_only_the_square_and_its_margin_are_decoded(source):
    slide = source(smooth(2000, 2000), cost_meter := CostMeter())
    crops = Crops.request([slide], torch.tensor([[[0.1, 0.3, 0.3]]]), side_px=112, step=1)
    crops.images(0)
    side = 0.1 * 2000 * 1.125  # level 0 is the only one, so all its pixels there are decoded
    assert cost_meter.total().pixels_decoded <= (side + 2) ** 2


def test_tiny_squares_and_squares_outside_the_slide_can_be_read(source):
    squares = torch.tensor([[[1e-4, 0.0, 0.0], [0.5, 1.4, 0.0], [0.05, 3.0, 3.0]]])
    crops = Crops.request([source(smooth(300, 200))], squares, side_px=112, step=1)
    images = crops.images(15)
    assert images.shape == (1, 3, 3, 126, 126)
    assert images[0, 2].sum() == 0
