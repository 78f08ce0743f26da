import math

import pytest
import torch
from torch import tensor

from parfocal.models.magnet.hindsight import MAX_CENTER, Explorer, imitation_loss

WHOLE = tensor([1.0, 0.0, 0.0])
MIN_SCALE = 0.2


@pytest.fixture
def explorer():
    torch.manual_seed(0)
    return Explorer(4, 2, min_scale=MIN_SCALE, generator=torch.Generator().manual_seed(0))


def squares(*values: list[float]) -> torch.Tensor:
    """Return the squares of a single picture of a single slide."""
    return tensor(values)[None, None]


def test_the_loss_is_the_squared_distance_of_centers_and_log_scales():
    chosen, visited = squares([0.5, 0.1, 0.2]), squares([0.25, 0.3, -0.1])
    loss = imitation_loss([chosen], [visited], tensor([[1.0]]))
    assert loss.item() == pytest.approx(0.2**2 + 0.3**2 + math.log(2) ** 2)


def test_the_weight_of_a_square_is_the_attention_of_all_leaves_inside_it():
    chosen = squares([0.5, 0.0, 0.0], [0.5, 0.0, 0.0])
    visited = squares([0.5, 0.1, 0.0], [0.5, 0.0, 0.3])
    attention = tensor([[0.1, 0.3, 0.2, 0.4]])  # two leaves in each
    loss = imitation_loss([chosen], [visited], attention)
    assert loss.item() == pytest.approx(0.4 * 0.1**2 + 0.6 * 0.3**2)


def test_only_the_chosen_square_gets_a_gradient_and_only_if_another_was_visited():
    chosen = squares([0.5, 0.0, 0.0], [0.4, 0.2, 0.2]).requires_grad_()
    visited = chosen + squares([0.0, 0.1, 0.0], [0.0, 0.0, 0.0])
    attention = tensor([[0.5, 0.5]], requires_grad=True)
    imitation_loss([chosen], [visited], attention).sum().backward()
    assert attention.grad is None
    torch.testing.assert_close(chosen.grad, squares([0.0, -0.1, 0.0], [0.0, 0.0, 0.0]))


def test_random_squares_lie_in_their_picture_where_a_layer_can_choose_them(explorer):
    explorer.random_share = 1.0
    visited = explorer.explore(WHOLE.expand(50, 10, 4, 3), frozen_patch=False).flatten(0, 2)
    scale, centers = visited[:, 0], visited[:, 1:].abs().amax(dim=1)
    assert scale.min() >= MIN_SCALE
    assert (scale + centers).max() <= 1 + 1e-6
    assert centers.max() == pytest.approx(MAX_CENTER)
    # ln s is uniform between ln MIN_SCALE and 0: its mean lies within four standard errors.
    mean, error = scale.log().mean(), -math.log(MIN_SCALE) / math.sqrt(12 * len(scale))
    assert mean.item() == pytest.approx(math.log(MIN_SCALE) / 2, abs=4 * error)


def test_a_frozen_square_is_never_replaced(explorer):
    explorer.random_share = 1.0
    visited = explorer.explore(WHOLE.expand(1, 5, 2, 3), frozen_patch=True)
    assert (visited[:, :, 0] == WHOLE).all()
    assert not (visited[:, :, 1] == WHOLE).any()


def test_the_share_of_random_squares_falls_to_zero(explorer):
    shares = []
    for progress in (0.0, 0.4, 0.8, 1.0):
        explorer.set_progress(progress)
        shares.append(explorer.random_share)
    assert shares == pytest.approx([0.8, 0.4, 0.0, 0.0])
    chosen = WHOLE.expand(4, 5, 2, 3)
    assert torch.equal(explorer.explore(chosen, frozen_patch=False), chosen)


def test_the_same_generator_gives_the_same_squares():
    visited = []
    for _ in range(2):
        explorer = Explorer(4, 2, min_scale=MIN_SCALE, generator=torch.Generator().manual_seed(1))
        visited.append(explorer.explore(WHOLE.expand(2, 3, 2, 3), frozen_patch=False))
    assert torch.equal(*visited)


def test_leaf_logits_are_those_of_the_attention_weighted_mean(explorer):
    features = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(0))
    attention, logits = explorer.classify_leaves(features)
    torch.testing.assert_close(attention.sum(dim=1), torch.ones(2))
    expected = explorer.classifier((attention[1, :, None] * features[1]).sum(dim=0))
    torch.testing.assert_close(logits[1], expected)


@pytest.mark.parametrize("min_scale", [-0.5, 0.01, 1.0])
def test_a_scale_that_a_layer_cannot_choose_is_refused(min_scale):
    with pytest.raises(ValueError, match=r"hindsight=.*: set it to at least 0\.05 and below 1"):
        Explorer(4, 2, min_scale=min_scale)


def test_the_share_of_random_squares_falls_as_set():
    for settings, expected in (
        ({}, (0.8, 0.4, 0.0)),
        ({"random_share": 0.2, "random_until": 1.0}, (0.2, 0.12, 0.04)),
    ):
        explorer, shares = Explorer(4, 2, min_scale=MIN_SCALE, **settings), []
        for progress in (0.0, 0.4, 0.8):
            explorer.set_progress(progress)
            shares.append(explorer.random_share)
        assert shares == pytest.approx(expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"random_share": 1.2}, "random_share=1.2: a share is between 0 and 1"),
        ({"random_until": 0.0}, "random_until=0.0: a fraction of the training is more than 0"),
    ],
)
def test_an_impossible_share_of_random_squares_is_an_error(settings, message):
    with pytest.raises(ValueError, match=message):
        Explorer(4, 2, min_scale=MIN_SCALE, **settings)
