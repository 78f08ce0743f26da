import math

import pytest
import torch
from torch import tensor

from parfocal.models.zoommil.hindsight import ExploringTopK, hindsight_loss


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


def test_in_training_more_is_selected_and_ever_less():
    topk, scores = ExploringTopK(4), torch.full((100,), 0.01)
    counts = []
    for progress in (0.0, 0.2, 0.4, 0.6, 1.0):
        topk.set_progress(progress)
        counts.append(len(topk(scores)))
    assert counts == [30, 30, 8, 4, 4]
    assert len(topk.eval()(scores)) == 4


def test_in_training_every_patch_is_chosen_now_and_then():
    scores = torch.arange(20.0) / 190
    topk = ExploringTopK(3, generator=torch.Generator().manual_seed(0))
    topk.set_progress(1.0)
    drawn = torch.stack([topk(scores).sum(dim=0) for _ in range(400)]).mean(dim=0)
    assert drawn.min() > 0
    assert drawn[-1] > 3 * drawn[0]


def test_after_training_the_highest_are_chosen_and_nothing_that_does_not_exist():
    scores, valid = tensor([0.1, 0.4, 0.3, 0.2]), tensor([True, False, True, True])
    selected = ExploringTopK(2).eval()(scores, valid)
    assert selected.tolist() == [[0, 0, 1, 0], [0, 0, 0, 1]]


def test_in_training_nothing_that_does_not_exist_is_chosen():
    valid = torch.arange(50) % 2 == 0
    selected = ExploringTopK(40)(torch.full((50,), 0.02), valid)
    assert selected.sum(dim=0).tolist() == valid.float().tolist()


def test_a_seed_gives_the_same_choice():
    first, second = (
        ExploringTopK(3, generator=torch.Generator().manual_seed(7))(torch.ones(30))
        for _ in range(2)
    )
    assert first.equal(second)
