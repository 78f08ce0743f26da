import math

import pytest
import torch
from torch import tensor

from parfocal.models.zoommil.hindsight import Exploration, ExploringTopK, hindsight_loss


def test_the_loss_is_zero_if_the_zoom_attention_equals_the_attention_found():
    scores = tensor([5.0, math.log(0.2), -3.0, math.log(0.8)])
    attention = [torch.full((4,), 0.25), tensor([0.1, 0.1, 0.3, 0.5])]
    assert hindsight_loss([scores], [tensor([1, 3])], attention) == pytest.approx(0, abs=1e-6)


def test_the_loss_is_the_divergence_among_the_selected_patches():
    attention = [torch.full((3,), 1 / 3), tensor([0.6, 0.1, 0.0, 0.3])]
    loss = hindsight_loss([torch.zeros(3)], [tensor([0, 2])], attention)
    expected = 0.7 * math.log(0.7 / 0.5) + 0.3 * math.log(0.3 / 0.5)
    assert loss.item() == pytest.approx(expected)


def test_attention_at_all_higher_magnifications_counts():
    # The first of two patches has 0.9 of the attention in the middle and 0.25 at the highest.
    middle, highest = tensor([0.5, 0.4, 0.1, 0.0]), tensor([0.25, 0.75])
    first = (0.9 + 0.25) / 2
    scores = tensor([math.log(first), math.log(1 - first)])
    zoom_scores = [scores, tensor([math.log(0.25), 0.0, math.log(0.75), 0.0])]
    selected = [tensor([0, 1]), tensor([0, 2])]
    attention = [torch.full((2,), 0.5), middle, highest]
    assert hindsight_loss(zoom_scores, selected, attention) == pytest.approx(0, abs=1e-6)


def test_patches_that_were_not_selected_get_no_gradient():
    scores = torch.zeros(4, requires_grad=True)
    attention = [torch.full((4,), 0.25), tensor([0.9, 0.1])]
    hindsight_loss([scores], [tensor([1, 3])], attention).backward()
    torch.testing.assert_close(scores.grad, tensor([0.0, 0.5 - 0.9, 0.0, 0.5 - 0.1]))


def test_attention_gets_no_gradient():
    attention = tensor([0.9, 0.1], requires_grad=True)
    scores = torch.zeros(2, requires_grad=True)
    hindsight_loss([scores], [tensor([0, 1])], [torch.full((2,), 0.5), attention]).backward()
    assert attention.grad is None


def test_training_selects_more_patches_at_first():
    topk, scores = ExploringTopK(4), torch.full((100,), 0.01)
    counts = []
    for progress in (0.0, 0.2, 0.4, 0.6, 1.0):
        topk.set_progress(progress)
        counts.append(len(topk(scores)))
    assert counts == [30, 30, 8, 4, 4]
    assert len(topk.eval()(scores)) == 4


def test_training_selects_every_patch_sometimes():
    scores = torch.arange(20.0) / 190
    topk = ExploringTopK(3, generator=torch.Generator().manual_seed(0))
    topk.set_progress(1.0)
    rates = torch.stack([topk(scores).sum(dim=0) for _ in range(400)]).mean(dim=0)
    assert rates.min() > 0
    assert rates[-1] > 3 * rates[0]


def test_evaluation_selects_the_highest_valid_scores():
    scores, valid = tensor([0.1, 0.4, 0.3, 0.2]), tensor([True, False, True, True])
    selected = ExploringTopK(2).eval()(scores, valid)
    assert selected.tolist() == [[0, 0, 1, 0], [0, 0, 0, 1]]


def test_training_selects_no_invalid_patch():
    valid = torch.arange(50) % 2 == 0
    selected = ExploringTopK(40)(torch.full((50,), 0.02), valid)
    assert selected.sum(dim=0).tolist() == valid.float().tolist()


def test_the_same_seed_gives_the_same_selection():
    first, second = (
        ExploringTopK(3, generator=torch.Generator().manual_seed(7))(torch.ones(30))
        for _ in range(2)
    )
    assert first.equal(second)


def test_the_share_of_selected_patches_falls_as_set():
    exploration = Exploration(start_share=0.8, fall_start=0.5, fall_end=1.0, fall_power=1.0)
    topk, counts = ExploringTopK(4, exploration=exploration), []
    for progress in (0.0, 0.5, 0.75, 1.0):
        topk.set_progress(progress)
        counts.append(len(topk(torch.full((100,), 0.01))))
    assert counts == [80, 80, 40, 4]


def test_without_random_patches_the_highest_scores_are_selected():
    scores = torch.arange(20.0) / 190
    topk = ExploringTopK(3, exploration=Exploration(random_share=0.0, start_share=0.0))
    assert topk(scores).sum(dim=0).nonzero().flatten().tolist() == [17, 18, 19]
    everything = ExploringTopK(3, exploration=Exploration(random_share=1.0, start_share=0.0))
    assert everything(scores).equal(topk(scores))  # all are preferred, so none is


def test_the_defaults_are_the_constants_of_before():
    exploration = Exploration()
    for progress in (0.0, 0.1, 0.2, 0.3, 0.47, 0.59, 0.6, 0.9):
        remaining = min(1.0, max(0.0, (0.6 - progress) / (0.6 - 0.2)))
        assert exploration.share_at(progress) == 0.3 * remaining**2
    assert exploration.random_share == 0.2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"random_share": 1.5}, "random_share=1.5: a share is between 0 and 1"),
        ({"start_share": -0.1}, "start_share=-0.1: a share is between 0 and 1"),
        ({"fall_start": 0.7}, "fall_start=0.7, fall_end=0.6: the share of selected patches"),
        ({"fall_power": 0.0}, "fall_power=0.0: a power is more than 0"),
    ],
)
def test_an_impossible_exploration_is_an_error(settings, message):
    with pytest.raises(ValueError, match=message):
        Exploration(**settings)


def test_a_top_k_of_no_patch_is_an_error():
    with pytest.raises(ValueError, match="k=0: at least 1 patch has to be selected"):
        ExploringTopK(0)
