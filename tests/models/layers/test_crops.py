"""Where squares lie on a slide, and what is read of them."""

import numpy as np
import pytest
import torch
from torch import Tensor

from parfocal.cost import CostMeter
from parfocal.features.pixels import SlidePixels
from parfocal.models.layers.crops import Crops, boxes_of
from parfocal.models.layers.magnify import WHOLE, within
from parfocal.models.magnet.multisampling import bilinear
from parfocal.slide.slide import slide_from_array
from parfocal.slide.tissue import find_tissue

WHOLE_SQUARE = torch.tensor([[WHOLE]])


@pytest.fixture
def source():
    """Give a pixel source over an array, and let go of its threads in the end."""
    made = []

    def make(pixels: np.ndarray, bill: CostMeter | None = None) -> SlidePixels:
        tissue = find_tissue(slide_from_array(pixels, mpp=1.0))
        made.append(SlidePixels(slide_from_array(pixels, mpp=1.0, bill=bill), tissue))
        return made[-1]

    yield make
    for each in made:
        each.close()


def smooth(width: int, height: int) -> np.ndarray:
    """A picture whose colors change slowly, none of it gray."""
    y, x = np.mgrid[:height, :width] / max(width, height)
    return np.stack([160 + 60 * x, 40 + 60 * y, 100 + 40 * np.sin(3 * (x + y))], -1).astype(
        np.uint8
    )


def read(source: SlidePixels, square: Tensor, side: int, *, gray_spread: int = 0) -> Tensor:
    """The pixels of one square without its margin."""
    crops = Crops.request([source], square, side=side, step=0)
    return crops.pictures(crops.images(gray_spread), side)[0, 0]


def test_the_whole_is_the_square_around_the_middle_of_the_slide():
    assert boxes_of((400, 300), torch.tensor(WHOLE)).tolist() == [0, -50, 400, 400]
    assert boxes_of((300, 400), torch.tensor(WHOLE)).tolist() == [-50, 0, 400, 400]


def test_a_square_lies_where_its_coordinates_say():
    square = torch.tensor([0.25, 0.5, -0.5])
    assert boxes_of((400, 300), square).tolist() == [250, 0, 100, 100]


def test_a_slide_that_is_no_square_is_padded_with_black_on_both_sides_alike(source):
    picture = read(source(smooth(448, 224)), WHOLE_SQUARE, 56)
    rows = picture.sum(dim=(0, 2)) > 0
    assert rows.tolist() == [False] * 14 + [True] * 28 + [False] * 14


def test_what_is_gray_becomes_black(source):
    pixels = smooth(224, 224)
    pixels[:112] = 240
    picture = read(source(pixels), WHOLE_SQUARE, 56, gray_spread=15)
    assert picture[:, :28].sum() == 0
    assert (picture[:, 28:].sum(dim=0) > 0).all()


def test_a_leaf_by_way_of_two_squares_is_the_leaf_read_directly(source):
    slide = source(smooth(2000, 1600))
    outer = within(WHOLE_SQUARE, torch.tensor([[[0.5, 0.2, -0.1]]]))
    inner = within(outer, torch.tensor([[[0.4, -0.3, 0.25]]]))
    crops = Crops.request([slide], outer, side=112, step=1)
    grid = crops.grid(inner[:, :, None], 56)
    sampled = bilinear(crops.images(0)[0], grid[0])[0, 0]
    torch.testing.assert_close(sampled, read(slide, inner, 56), atol=2.5 / 255, rtol=0)


def test_no_more_is_read_than_the_square_and_its_margin_at_the_level_it_asks_for(source):
    slide = source(smooth(2000, 2000), bill := CostMeter())
    crops = Crops.request([slide], torch.tensor([[[0.1, 0.3, 0.3]]]), side=112, step=1)
    crops.images(0)
    side = 0.1 * 2000 * 1.125  # level 0 is the only one, so all its pixels there are decoded
    assert bill.close().pixels_decoded <= (side + 2) ** 2


def test_squares_of_a_point_and_beyond_the_slide_can_be_read(source):
    squares = torch.tensor([[[1e-4, 0.0, 0.0], [0.5, 1.4, 0.0], [0.05, 3.0, 3.0]]])
    crops = Crops.request([source(smooth(300, 200))], squares, side=112, step=1)
    images = crops.images(15)
    assert images.shape == (1, 3, 3, 126, 126)
    assert images[0, 2].sum() == 0
