import math

import pytest
import torch
from torch import tensor

from parfocal.models.magnet.imitation import FARTHEST, Explorer, imitation_loss

WHOLE = tensor([1.0, 0.0, 0.0])
SMALLEST = 0.2


@pytest.fixture
def explorer():
    torch.manual_seed(0)
    return Explorer(4, 2, smallest=SMALLEST, generator=torch.Generator().manual_seed(0))


def squares(*given: list[float]) -> torch.Tensor:
    """Give squares of one slide's one picture."""
    return tensor(given)[None, None]


def test_a_square_that_was_not_taken_costs_by_place_and_by_ratio_of_size():
    chosen, taken = squares([0.5, 0.1, 0.2]), squares([0.25, 0.3, -0.1])
    loss = imitation_loss([chosen], [taken], tensor([[1.0]]))
    assert loss.item() == pytest.approx(0.2**2 + 0.3**2 + math.log(2) ** 2)


def test_a_square_counts_by_the_attention_of_all_leaves_inside_it():
    chosen = squares([0.5, 0.0, 0.0], [0.5, 0.0, 0.0])
    taken = squares([0.5, 0.1, 0.0], [0.5, 0.0, 0.3])
    attention = tensor([[0.1, 0.3, 0.2, 0.4]])  # two leaves in each
    loss = imitation_loss([chosen], [taken], attention)
    assert loss.item() == pytest.approx(0.4 * 0.1**2 + 0.6 * 0.3**2)


def test_only_the_choice_is_taught_and_not_by_what_it_was_itself():
    chosen = squares([0.5, 0.0, 0.0], [0.4, 0.2, 0.2]).requires_grad_()
    taken = chosen + squares([0.0, 0.1, 0.0], [0.0, 0.0, 0.0])
    attention = tensor([[0.5, 0.5]], requires_grad=True)
    imitation_loss([chosen], [taken], attention).sum().backward()
    assert attention.grad is None
    torch.testing.assert_close(chosen.grad, squares([0.0, -0.1, 0.0], [0.0, 0.0, 0.0]))


def test_squares_drawn_lie_in_their_picture_wherever_a_layer_could_choose(explorer):
    explorer.chance = 1.0
    drawn = explorer.explored(WHOLE.expand(50, 10, 4, 3), frozen=False).flatten(0, 2)
    scale, places = drawn[:, 0], drawn[:, 1:].abs().amax(dim=1)
    assert scale.min() >= SMALLEST
    assert (scale + places).max() <= 1 + 1e-6
    assert places.max() == pytest.approx(FARTHEST)
    # ln s is even between ln SMALLEST and 0, within four standard errors.
    mean, error = scale.log().mean(), -math.log(SMALLEST) / math.sqrt(12 * len(scale))
    assert mean.item() == pytest.approx(math.log(SMALLEST) / 2, abs=4 * error)


def test_a_frozen_square_stays(explorer):
    explorer.chance = 1.0
    drawn = explorer.explored(WHOLE.expand(1, 5, 2, 3), frozen=True)
    assert (drawn[:, :, 0] == WHOLE).all()
    assert not (drawn[:, :, 1] == WHOLE).any()


def test_fewer_and_fewer_squares_are_drawn_and_in_the_end_none(explorer):
    chances = []
    for progress in (0.0, 0.4, 0.8, 1.0):
        explorer.set_progress(progress)
        chances.append(explorer.chance)
    assert chances == pytest.approx([0.8, 0.4, 0.0, 0.0])
    chosen = WHOLE.expand(4, 5, 2, 3)
    assert torch.equal(explorer.explored(chosen, frozen=False), chosen)


def test_the_same_generator_draws_the_same_squares():
    drawn = []
    for _ in range(2):
        explorer = Explorer(4, 2, smallest=SMALLEST, generator=torch.Generator().manual_seed(1))
        drawn.append(explorer.explored(WHOLE.expand(2, 3, 2, 3), frozen=False))
    assert torch.equal(*drawn)


def test_leaves_are_judged_by_what_attention_falls_on(explorer):
    features = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(0))
    attention, logits = explorer.judge(features)
    torch.testing.assert_close(attention.sum(dim=1), torch.ones(2))
    expected = explorer.classify((attention[1, :, None] * features[1]).sum(dim=0))
    torch.testing.assert_close(logits[1], expected)


@pytest.mark.parametrize("smallest", [-0.5, 0.01, 1.0])
def test_squares_that_a_layer_could_not_choose_are_not_drawn(smallest):
    with pytest.raises(ValueError, match=r"hindsight=.*: a layer chooses squares of 0\.05 to 1"):
        Explorer(4, 2, smallest=smallest)
