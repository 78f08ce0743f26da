"""Squares are computed from attention maps, and keep their gradients."""

import math

import pytest
import torch
from torch import Tensor

from parfocal.models.layers.squares import grid_points, pixel_centers
from parfocal.models.magnet.magnifying_layer import MagnifyingLayer, squares_from_maps
from parfocal.models.magnet.multisampling import LinearizedSampler, bilinear

SIDE = 56


def blob(x: int, y: int, *, width: int = 1) -> Tensor:
    """Return a uniform map over a square of cells."""
    p = torch.zeros(SIDE, SIDE, dtype=torch.float64)
    p[y : y + width, x : x + width] = 1 / width**2
    return p


def seeded(layer: MagnifyingLayer) -> MagnifyingLayer:
    generator = torch.Generator().manual_seed(0)
    for weight in layer.parameters():
        torch.nn.init.normal_(weight, std=0.1, generator=generator)
    return layer


def test_a_uniform_map_gives_the_whole_picture():
    s, x, y = squares_from_maps(torch.full((SIDE, SIDE), 1 / SIDE**2)).tolist()
    assert s == pytest.approx(math.sqrt(1 - 1 / SIDE**2))  # the variance of cell centers
    assert (x, y) == pytest.approx((0, 0), abs=1e-6)


def test_a_map_of_one_cell_gives_the_smallest_square_around_it():
    s, x, y = squares_from_maps(blob(10, 40)).tolist()
    center = pixel_centers(SIDE, torch.zeros(1, dtype=torch.float64))
    assert (s, x, y) == pytest.approx((0.05, math.tanh(center[10]), math.tanh(center[40])))


def test_a_uniform_square_of_cells_gives_a_square_of_its_size():
    s, _, _ = squares_from_maps(blob(20, 20, width=14)).tolist()
    assert s == pytest.approx(14 / SIDE, rel=0.01)


def test_a_square_is_never_larger_than_the_picture():
    corners = sum(blob(x, y) for x in (0, SIDE - 1) for y in (0, SIDE - 1)) / 4
    assert squares_from_maps(corners).tolist() == pytest.approx([1, 0, 0], abs=1e-9)


def test_the_center_follows_a_blob():
    centers = [squares_from_maps(blob(x, 30, width=5))[1].item() for x in range(0, 50, 10)]
    assert centers == sorted(centers)
    assert len(set(centers)) == len(centers)


def test_the_size_can_be_computed_from_the_score():
    p, z = blob(20, 20, width=14), torch.full((SIDE, SIDE), 0.3, dtype=torch.float64)
    assert squares_from_maps(p, z)[0].item() == pytest.approx(0.3)


def test_a_new_layer_chooses_nearly_the_whole_picture_from_hundreds_of_cells():
    torch.manual_seed(0)
    layer = MagnifyingLayer(1, 3)
    pictures = torch.rand(4, 1, 3, SIDE, SIDE)
    nonzero = (layer.attention(layer.logits(pictures)) > 0).sum(dim=(-2, -1))
    assert nonzero.min() > 300
    s, x, y = layer(pictures).flatten(0, 2).unbind(-1)
    assert s.min() > 0.8
    assert max(x.abs().max(), y.abs().max()) < 0.3


def test_with_a_large_logit_scale_few_cells_are_left():
    torch.manual_seed(0)
    layer = MagnifyingLayer(1, 3, logit_scale=SIDE**2)
    pictures = torch.rand(4, 1, 3, SIDE, SIDE)
    assert (layer.attention(layer.logits(pictures)) > 0).sum(dim=(-2, -1)).max() < 50


@pytest.mark.parametrize("scale_estimator", ["moments", "score"])
def test_every_weight_of_a_new_layer_gets_a_gradient(scale_estimator):
    torch.manual_seed(0)
    layer = MagnifyingLayer(2, 2, scale_estimator=scale_estimator)
    layer(0.5 * torch.rand(2, 2, 3, SIDE, SIDE)).square().sum().backward()
    assert all(weight.grad.abs().sum() > 0 for weight in layer.parameters())


@pytest.mark.parametrize("sample", [bilinear, LinearizedSampler()], ids=["bilinear", "linearized"])
def test_squares_move_to_a_bright_spot_and_shrink_to_it(sample):
    torch.manual_seed(0)
    side, width = 28, 6
    layer, corners = MagnifyingLayer(1, 1), torch.tensor([[4, 5], [15, 18], [17, 7]])
    pictures = 0.05 * torch.rand(3, 1, 3, side, side)
    for picture, (x, y) in zip(pictures, corners.tolist(), strict=True):
        picture[..., y : y + width, x : x + width] = 1
    optimizer = torch.optim.Adam(layer.parameters(), lr=3e-3)
    for _ in range(30):
        views = sample(pictures[:, 0], grid_points(layer(pictures)[:, 0], side))
        optimizer.zero_grad()
        (-views.mean()).backward()
        optimizer.step()
    s, x, y = layer(pictures)[:, 0, 0].unbind(-1)
    middles = (corners.T + width / 2) / side * 2 - 1
    assert s.max() < width / side  # half the side of the spot, which is of 2
    assert max((x - middles[0]).abs().max(), (y - middles[1]).abs().max()) < width / side


def test_each_slot_of_each_picture_has_weights_of_its_own():
    layer, pictures = seeded(MagnifyingLayer(2, 2)).eval(), torch.rand(1, 2, 3, SIDE, SIDE)
    before = layer(pictures)
    with torch.no_grad():
        layer.score.weight[2] += torch.rand(32, 3, 3)  # the third stack: picture 1, slot 0
    changed = (layer(pictures) != before).any(dim=-1)
    assert changed.tolist() == [[[False, False], [True, False]]]


def test_a_stack_depends_on_its_own_picture_alone():
    layer, pictures = seeded(MagnifyingLayer(2, 2)).eval(), torch.rand(1, 2, 3, SIDE, SIDE)
    before = layer(pictures)
    pictures[:, 1] = 0
    assert (layer(pictures) != before).any(dim=-1).tolist() == [[[False, False], [True, True]]]


def test_a_frozen_slot_is_the_whole_picture_and_has_no_weights():
    free, frozen = MagnifyingLayer(2, 3), MagnifyingLayer(2, 3, frozen_patch=True)
    assert (free.stacks, frozen.stacks) == (6, 4)
    squares = frozen(torch.rand(1, 2, 3, SIDE, SIDE))
    assert squares.shape == (1, 2, 3, 3)
    assert squares[0, :, 0].tolist() == [[1, 0, 0], [1, 0, 0]]


def test_an_unknown_scale_estimator_is_refused():
    with pytest.raises(ValueError, match="scale_estimator='area' is unknown; use one of"):
        MagnifyingLayer(1, 2, scale_estimator="area")


def test_a_layer_with_only_a_frozen_slot_is_refused():
    with pytest.raises(ValueError, match="slots=1: a layer needs at least one square besides"):
        MagnifyingLayer(1, 1, frozen_patch=True)
