"""How squares are derived from maps, told within one another, and kept from dying."""

import math

import pytest
import torch
from torch import Tensor

from parfocal.models.layers.magnify import (
    MagnifyingLayer,
    cell_centers,
    points_of,
    squares_of,
    within,
    without_gray,
)
from parfocal.models.magnet.multisampling import LinearizedSampler, bilinear

SIDE = 56


def blob(x: int, y: int, *, width: int = 1) -> Tensor:
    """An even map over a square of cells."""
    p = torch.zeros(SIDE, SIDE, dtype=torch.float64)
    p[y : y + width, x : x + width] = 1 / width**2
    return p


def seeded(layer: MagnifyingLayer) -> MagnifyingLayer:
    generator = torch.Generator().manual_seed(0)
    for weight in layer.parameters():
        torch.nn.init.normal_(weight, std=0.1, generator=generator)
    return layer


def test_an_even_map_gives_the_whole_picture():
    s, x, y = squares_of(torch.full((SIDE, SIDE), 1 / SIDE**2)).tolist()
    assert s == pytest.approx(math.sqrt(1 - 1 / SIDE**2))  # cells are not points
    assert (x, y) == pytest.approx((0, 0), abs=1e-6)


def test_a_map_of_one_cell_gives_the_smallest_square_around_it():
    s, x, y = squares_of(blob(10, 40)).tolist()
    center = cell_centers(SIDE, torch.zeros(1, dtype=torch.float64))
    assert (s, x, y) == pytest.approx((0.05, math.tanh(center[10]), math.tanh(center[40])))


def test_an_even_square_gives_a_square_of_its_size():
    s, _, _ = squares_of(blob(20, 20, width=14)).tolist()
    assert s == pytest.approx(14 / SIDE, rel=0.01)


def test_a_square_is_never_larger_than_the_picture():
    corners = sum(blob(x, y) for x in (0, SIDE - 1) for y in (0, SIDE - 1)) / 4
    assert squares_of(corners).tolist() == pytest.approx([1, 0, 0], abs=1e-9)


def test_the_center_follows_a_blob():
    places = [squares_of(blob(x, 30, width=5))[1].item() for x in range(0, 50, 10)]
    assert places == sorted(places)
    assert len(set(places)) == len(places)


def test_the_score_of_the_map_can_give_the_size():
    p, z = blob(20, 20, width=14), torch.full((SIDE, SIDE), 0.3, dtype=torch.float64)
    assert squares_of(p, z)[0].item() == pytest.approx(0.3)


def test_a_square_within_a_square_is_where_both_zooms_lead():
    outer, inner = torch.tensor([0.5, 0.2, -0.1]), torch.tensor([0.4, -0.5, 1.0])
    assert within(outer, inner).tolist() == pytest.approx([0.2, -0.05, 0.4])
    twice = points_of(inner, 3) * outer[0] + outer[1:]
    torch.testing.assert_close(points_of(within(outer, inner), 3), twice)


def test_the_whole_square_samples_the_resized_picture():
    picture = torch.rand(2, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    points = points_of(torch.tensor([[[1.0, 0, 0]]]).expand(2, 1, 3), 56)
    resized = torch.nn.functional.interpolate(picture, (56, 56), mode="bilinear")
    torch.testing.assert_close(bilinear(picture, points)[:, 0], resized)


@pytest.mark.parametrize(("spread", "left"), [(14, 0.0), (15, 115 / 255), (16, 116 / 255)])
def test_pixels_whose_colors_lie_within_less_than_15_of_each_other_become_black(spread, left):
    pixel = torch.tensor([100 + spread, 100, 105], dtype=torch.uint8).view(1, 3, 1, 1)
    assert without_gray(pixel, 15)[0, 0].item() == pytest.approx(left)


def test_a_new_layer_looks_at_nearly_everything_with_hundreds_of_cells_alive():
    torch.manual_seed(0)
    layer = MagnifyingLayer(1, 3)
    pictures = torch.rand(4, 1, 3, SIDE, SIDE)
    alive = (layer.attention(layer.logits(pictures)) > 0).sum(dim=(-2, -1))
    assert alive.min() > 300
    s, x, y = layer(pictures).flatten(0, 2).unbind(-1)
    assert s.min() > 0.8
    assert max(x.abs().max(), y.abs().max()) < 0.3


def test_without_a_low_temperature_a_handful_of_cells_is_left():
    torch.manual_seed(0)
    layer = MagnifyingLayer(1, 3, temperature=SIDE**2)
    pictures = torch.rand(4, 1, 3, SIDE, SIDE)
    assert (layer.attention(layer.logits(pictures)) > 0).sum(dim=(-2, -1)).max() < 50


@pytest.mark.parametrize("scaling", ["moments", "score"])
def test_size_and_place_reach_every_weight_of_a_new_layer(scaling):
    torch.manual_seed(0)
    layer = MagnifyingLayer(2, 2, scaling=scaling)
    layer(0.5 * torch.rand(2, 2, 3, SIDE, SIDE)).square().sum().backward()
    assert all(weight.grad.abs().sum() > 0 for weight in layer.parameters())


@pytest.mark.parametrize("sample", [bilinear, LinearizedSampler()], ids=["bilinear", "linearized"])
def test_squares_move_onto_what_lowers_the_loss_and_shrink_to_it(sample):
    torch.manual_seed(0)
    side, width = 28, 6
    layer, corners = MagnifyingLayer(1, 1), torch.tensor([[4, 5], [15, 18], [17, 7]])
    pictures = 0.05 * torch.rand(3, 1, 3, side, side)
    for picture, (x, y) in zip(pictures, corners.tolist(), strict=True):
        picture[..., y : y + width, x : x + width] = 1
    optimizer = torch.optim.Adam(layer.parameters(), lr=3e-3)
    for _ in range(30):
        views = sample(pictures[:, 0], points_of(layer(pictures)[:, 0], side))
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


def test_a_stack_sees_its_picture_alone():
    layer, pictures = seeded(MagnifyingLayer(2, 2)).eval(), torch.rand(1, 2, 3, SIDE, SIDE)
    before = layer(pictures)
    pictures[:, 1] = 0
    assert (layer(pictures) != before).any(dim=-1).tolist() == [[[False, False], [True, True]]]


def test_a_frozen_slot_is_the_whole_picture_and_has_no_weights():
    free, frozen = MagnifyingLayer(2, 3), MagnifyingLayer(2, 3, frozen=True)
    assert (free.stacks, frozen.stacks) == (6, 4)
    squares = frozen(torch.rand(1, 2, 3, SIDE, SIDE))
    assert squares.shape == (1, 2, 3, 3)
    assert squares[0, :, 0].tolist() == [[1, 0, 0], [1, 0, 0]]


def test_an_unknown_scaling_is_refused():
    with pytest.raises(ValueError, match="scaling='area' is unknown; it is one of"):
        MagnifyingLayer(1, 2, scaling="area")


def test_a_layer_with_nothing_but_a_frozen_slot_is_refused():
    with pytest.raises(ValueError, match="slots=1: a layer chooses at least one square besides"):
        MagnifyingLayer(1, 1, frozen=True)
