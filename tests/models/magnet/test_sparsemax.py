"""Sparsemax agrees with entmax, with bisection and with finite differences."""

import entmax
import pytest
import torch
from torch import Tensor

from parfocal.models.magnet.sparsemax import sparsemax


def random(*shape: int, std: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return std * torch.randn(*shape, dtype=torch.float64, generator=generator)


def by_bisection(scores: Tensor) -> Tensor:
    """Project onto the simplex by bisection for the tau at which max(z - tau, 0) sums to 1."""
    low, high = scores.max() - 1, scores.max()
    for _ in range(100):
        tau = (low + high) / 2
        low, high = (tau, high) if (scores - tau).clamp_min(0).sum() > 1 else (low, tau)
    return (scores - tau).clamp_min(0)


@pytest.mark.parametrize("std", [1e-4, 1e-2, 1.0, 100.0])
def test_value_and_gradient_agree_with_entmax(std):
    scores, upstream = random(4, 50, std=std), random(4, 50)
    ours, theirs = scores.clone().requires_grad_(), scores.clone().requires_grad_()
    value, expected = sparsemax(ours), entmax.sparsemax(theirs, dim=-1)
    torch.testing.assert_close(value, expected)
    (value * upstream).sum().backward()
    (expected * upstream).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_the_result_is_the_nearest_point_of_the_simplex():
    scores = random(30)
    torch.testing.assert_close(sparsemax(scores), by_bisection(scores))


def test_the_gradient_agrees_with_finite_differences():
    assert torch.autograd.gradcheck(sparsemax, random(3, 7).requires_grad_())


def test_the_result_sums_to_one_and_does_not_change_with_a_shift():
    scores = random(5, 3136)
    torch.testing.assert_close(sparsemax(scores).sum(-1), torch.ones(5, dtype=torch.float64))
    torch.testing.assert_close(sparsemax(scores), sparsemax(scores + 7))


def test_points_on_the_simplex_do_not_change():
    points = random(5, 8).softmax(-1)
    torch.testing.assert_close(sparsemax(points), points)


def test_equal_scores_give_a_uniform_result_in_single_precision():
    assert sparsemax(torch.full((3136,), 1e4)).tolist() == pytest.approx([1 / 3136] * 3136)


def test_nothing_is_given_or_taken_outside_the_support():
    scores = torch.tensor([3.0, 0.0, 2.9], requires_grad=True)
    sparsemax(scores)[1].backward()
    assert sparsemax(scores)[1] == 0
    assert scores.grad.tolist() == [0, 0, 0]
