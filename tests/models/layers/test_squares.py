"""Squares are converted between coordinates."""

import pytest
import torch

from parfocal.models.layers.squares import WHOLE, from_parent, grid_points, level0_boxes
from parfocal.models.magnet.multisampling import bilinear


def test_the_whole_square_is_centered_on_the_slide():
    assert level0_boxes((400, 300), torch.tensor(WHOLE)).tolist() == [0, -50, 400, 400]
    assert level0_boxes((300, 400), torch.tensor(WHOLE)).tolist() == [-50, 0, 400, 400]


def test_a_square_has_the_box_of_its_coordinates():
    square = torch.tensor([0.25, 0.5, -0.5])
    assert level0_boxes((400, 300), square).tolist() == [250, 0, 100, 100]


def test_a_square_inside_a_square_combines_both_zooms():
    outer, inner = torch.tensor([0.5, 0.2, -0.1]), torch.tensor([0.4, -0.5, 1.0])
    assert from_parent(outer, inner).tolist() == pytest.approx([0.2, -0.05, 0.4])
    twice = grid_points(inner, 3) * outer[0] + outer[1:]
    torch.testing.assert_close(grid_points(from_parent(outer, inner), 3), twice)


def test_the_whole_square_samples_the_resized_picture():
    picture = torch.rand(2, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    points = grid_points(torch.tensor([[[1.0, 0, 0]]]).expand(2, 1, 3), 56)
    resized = torch.nn.functional.interpolate(picture, (56, 56), mode="bilinear")
    torch.testing.assert_close(bilinear(picture, points)[:, 0], resized)
