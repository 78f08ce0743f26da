import math

import pytest
import torch
from torch import tensor

from parfocal.models.layers.hindsight import hindsight_loss, share_zoomed


def test_an_aim_that_foresaw_where_attention_fell_costs_nothing():
    aim = tensor([5.0, math.log(0.2), -3.0, math.log(0.8)])
    attention = [torch.full((4,), 0.25), tensor([0.1, 0.1, 0.3, 0.5])]
    assert hindsight_loss([aim], [tensor([1, 3])], attention) == pytest.approx(0, abs=1e-6)


def test_the_loss_is_the_divergence_of_the_aim_among_the_selected():
    attention = [torch.full((3,), 1 / 3), tensor([0.6, 0.1, 0.0, 0.3])]
    loss = hindsight_loss([torch.zeros(3)], [tensor([0, 2])], attention)
    expected = 0.7 * math.log(0.7 / 0.5) + 0.3 * math.log(0.3 / 0.5)
    assert loss.item() == pytest.approx(expected)


def test_attention_at_all_sharper_magnifications_counts():
    # Of two patches, the first holds 0.9 of the middle's attention and 0.25 of the sharpest's.
    middle, sharpest = tensor([0.5, 0.4, 0.1, 0.0]), tensor([0.25, 0.75])
    first = (0.9 + 0.25) / 2
    aim = tensor([math.log(first), math.log(1 - first)])
    foreseen = [aim, tensor([math.log(0.25), 0.0, math.log(0.75), 0.0])]
    selected = [tensor([0, 1]), tensor([0, 2])]
    attention = [torch.full((2,), 0.5), middle, sharpest]
    assert hindsight_loss(foreseen, selected, attention) == pytest.approx(0, abs=1e-6)


def test_patches_that_were_not_selected_get_no_gradient():
    aim = torch.zeros(4, requires_grad=True)
    attention = [torch.full((4,), 0.25), tensor([0.9, 0.1])]
    hindsight_loss([aim], [tensor([1, 3])], attention).backward()
    torch.testing.assert_close(aim.grad, tensor([0.0, 0.5 - 0.9, 0.0, 0.5 - 0.1]))


def test_attention_gets_no_gradient():
    attention = tensor([0.9, 0.1], requires_grad=True)
    aim = torch.zeros(2, requires_grad=True)
    hindsight_loss([aim], [tensor([0, 1])], [torch.full((2,), 0.5), attention]).backward()
    assert attention.grad is None


def test_the_share_zoomed_into_falls_from_everything_to_nothing():
    shares = [share_zoomed(progress / 10) for progress in range(11)]
    assert shares[:3] == [1, 1, 1]
    assert shares[6:] == [0, 0, 0, 0, 0]
    assert shares == sorted(shares, reverse=True)
    assert share_zoomed(0.4) == pytest.approx(0.25)
