"""Perturbed top-K against closed forms, plain Monte Carlo and finite differences."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from parfocal.models.zoommil.topk import PerturbedTopK, top_indices

SCORES = torch.tensor([0.3, -0.2, 0.9, 0.1, 0.5, -0.6], dtype=torch.float64)


class LargestTensor(TorchDispatchMode):
    """Record the size of the largest tensor that is created."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for each in made if isinstance(made, tuple | list) else (made,):
            if isinstance(each, Tensor):
                self.size = max(self.size, each.numel())
        return made


def layer(k: int, *, seed: int = 0, sigma: float = 0.5, **settings) -> PerturbedTopK:
    return PerturbedTopK(k, sigma=sigma, generator=torch.Generator().manual_seed(seed), **settings)


def normal_cdf(x: float) -> float:
    return 0.5 * (1 + math.erf(x / math.sqrt(2)))


def monte_carlo(scores: np.ndarray, k: int, sigma: float, samples: int) -> tuple:
    """Return mean one-hot vectors and their standard errors, sampled and sorted by NumPy."""
    noisy = scores + sigma * np.random.default_rng(1).standard_normal((samples, len(scores)))
    chosen = np.sort(np.argsort(-noisy, axis=1)[:, :k], axis=1)
    mean = np.stack([np.bincount(chosen[:, row], minlength=len(scores)) for row in range(k)])
    mean = mean / samples
    return mean, np.sqrt(mean * (1 - mean) / samples)


def gradients(topk: PerturbedTopK, upstream: Tensor, draws: int) -> Iterator[Tensor]:
    for _ in range(draws):
        scores = SCORES.clone().requires_grad_()
        (topk(scores) * upstream).sum().backward()
        yield scores.grad


def stored_one_hots(topk: PerturbedTopK, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Return the one-hot vectors and the noise of the next forward pass, all in memory."""
    state = topk.generator.get_state()
    seed = int(torch.randint(2**63 - 1, (), generator=topk.generator))
    topk.generator.set_state(state)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.empty(topk.num_samples, len(scores), dtype=scores.dtype)
    noise.normal_(generator=generator)
    indices = (scores + topk.sigma * noise).argsort(dim=1, descending=True)[:, : topk.k]
    one_hots = torch.nn.functional.one_hot(indices.sort(dim=1).values, len(scores))
    return one_hots.to(scores.dtype), noise


def test_rows_sum_to_one_and_columns_to_at_most_one():
    select = layer(3)(SCORES)
    torch.testing.assert_close(select.sum(dim=1), torch.ones(3, dtype=torch.float64))
    assert (select.sum(dim=0) <= 1 + 1e-12).all()


def test_selection_lies_within_four_standard_errors_of_an_independent_monte_carlo():
    samples = 20_000
    mean, error = monte_carlo(SCORES.numpy(), 2, 0.5, samples)
    ours = layer(2, num_samples=samples)(SCORES).numpy()
    assert (np.abs(ours - mean) <= 4 * math.sqrt(2) * np.maximum(error, 1 / samples)).all()


def test_two_scores_are_selected_by_the_normal_distribution_of_their_difference():
    scores = torch.tensor([0.4, 0.1], dtype=torch.float64, requires_grad=True)
    sigma, samples = 0.5, 20_000
    z = 0.3 / (sigma * math.sqrt(2))
    select = layer(1, sigma=sigma, num_samples=samples)(scores)
    error = math.sqrt(0.25 / samples)
    assert abs(select[0, 0].item() - normal_cdf(z)) <= 4 * error
    select[0, 0].backward()
    slope = math.exp(-z * z / 2) / math.sqrt(2 * math.pi) / (sigma * math.sqrt(2))
    # Each sample adds g Z / sigma, of second moment at most 1 / sigma².
    assert abs(scores.grad[0].item() - slope) <= 4 / (sigma * math.sqrt(samples))


def test_the_gradient_matches_finite_differences_under_common_random_numbers():
    upstream = torch.randn(2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    draws, step = 400, 0.05
    ours = torch.stack(list(gradients(layer(2), upstream, draws)))

    def objective(scores: Tensor) -> Tensor:
        topk = layer(2, seed=9, num_samples=100)
        return torch.stack([(topk(scores) * upstream).sum() for _ in range(draws)])

    for d in range(6):
        shift = step * torch.eye(6, dtype=torch.float64)[d]
        differences = (objective(SCORES + shift) - objective(SCORES - shift)) / (2 * step)
        error = (ours[:, d].var() / draws + differences.var() / draws).sqrt()
        assert (ours[:, d].mean() - differences.mean()).abs() <= 4 * error


@pytest.mark.parametrize("baseline", [True, False])
def test_the_gradient_sums_to_zero_on_average(baseline):
    upstream = torch.randn(2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    topk = layer(2, baseline=baseline)
    sums = torch.stack(list(gradients(topk, upstream, 400))).sum(dim=1)
    assert sums.mean().abs() <= 4 * sums.std() / math.sqrt(len(sums))


def test_the_baseline_keeps_the_mean_of_the_gradient_and_reduces_its_variance():
    # An upstream far from zero, as the features of a trunk with a ReLU give.
    upstream = 5 + torch.randn(2, 6, dtype=torch.float64)
    plain = torch.stack(list(gradients(layer(2, baseline=False), upstream, 400)))
    better = torch.stack(list(gradients(layer(2, seed=1), upstream, 400)))
    error = ((plain.var(dim=0) + better.var(dim=0)) / 400).sqrt()
    assert ((plain.mean(dim=0) - better.mean(dim=0)).abs() <= 4 * error).all()
    assert (better.var(dim=0) < plain.var(dim=0) / 10).all()


@pytest.mark.parametrize("baseline", [True, False])
def test_the_full_gradient_equals_that_of_stored_one_hots(baseline):
    topk = layer(3, baseline=baseline)
    one_hots, noise = stored_one_hots(topk, SCORES)
    upstream = torch.randn(3, 6, dtype=torch.float64)
    gain = torch.einsum("kn,skn->s", upstream, one_hots)
    if baseline:
        others = (gain.sum() - gain) / (len(gain) - 1)
        gain = gain - others
    expected = torch.einsum("s,sn->n", gain, noise) / (len(gain) * topk.sigma)
    torch.testing.assert_close(next(gradients(topk, upstream, 1)), expected)


def test_the_diagonal_gradient_equals_that_of_the_released_code():
    topk = layer(3, jacobian="diagonal")
    one_hots, noise = stored_one_hots(topk, SCORES)
    upstream = torch.randn(3, 6, dtype=torch.float64)
    jacobian = torch.einsum("skn,sn->kn", one_hots, noise) / topk.num_samples / topk.sigma
    expected = torch.einsum("kn,kn->n", upstream, jacobian)
    torch.testing.assert_close(next(gradients(topk, upstream, 1)), expected)


def test_the_diagonal_gradient_does_not_sum_to_zero():
    upstream = torch.randn(2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    sums = torch.stack(list(gradients(layer(2, jacobian="diagonal"), upstream, 400))).sum(dim=1)
    assert sums.mean().abs() > 10 * sums.std() / math.sqrt(len(sums))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("jacobian", ["full", "diagonal"])
def test_the_same_seed_gives_the_same_bits_forward_and_backward(dtype, jacobian):
    scores, upstream = torch.randn(50, dtype=dtype), torch.randn(4, 50, dtype=dtype)

    def run() -> tuple[Tensor, Tensor]:
        leaf = scores.clone().requires_grad_()
        select = layer(4, jacobian=jacobian)(leaf)
        return select.detach(), torch.autograd.grad(select, leaf, upstream)[0]

    (select, grad), (again, grad_again) = run(), run()
    assert select.equal(again)
    assert grad.equal(grad_again)
    assert select.dtype == grad.dtype == dtype


def test_each_forward_pass_draws_new_noise():
    topk = layer(2)
    assert not topk(SCORES).equal(topk(SCORES))


def test_the_order_of_backward_passes_does_not_matter():
    upstream = torch.randn(2, 6, dtype=torch.float64)
    in_order = list(gradients(layer(2), upstream, 2))
    topk, leaves = layer(2), [SCORES.clone().requires_grad_() for _ in range(2)]
    outputs = [topk(leaf) for leaf in leaves]
    for output in reversed(outputs):
        (output * upstream).sum().backward()
    assert [leaf.grad.tolist() for leaf in leaves] == [grad.tolist() for grad in in_order]


def test_evaluation_selects_the_hard_top_k_in_order_of_position():
    select = layer(3).eval()(SCORES)
    assert select.tolist() == torch.eye(6)[[0, 2, 4]].tolist()


def test_vanishing_noise_gives_the_hard_top_k():
    assert layer(3, sigma=1e-6)(SCORES).equal(layer(3).eval()(SCORES))


def test_without_noise_the_selection_is_hard_and_constant():
    scores = SCORES.clone().requires_grad_()
    select = layer(3, sigma=0)(scores)
    assert select.equal(layer(3).eval()(SCORES))
    assert not select.requires_grad


@pytest.mark.parametrize("k", [6, 50])
def test_selecting_everything_is_the_identity_and_constant(k):
    select = layer(k)(SCORES.clone().requires_grad_())
    assert select.equal(torch.eye(6, dtype=torch.float64))
    assert not select.requires_grad


def test_the_first_of_equal_scores_is_selected():
    scores = torch.tensor([[1.0, 2, 1, 1, 2], [5, 5, 5, 5, 5], [1, 2, 3, 4, 5]])
    assert top_indices(scores, 3).tolist() == [[0, 1, 4], [0, 1, 2], [2, 3, 4]]


@pytest.mark.parametrize("training", [True, False])
def test_invalid_patches_are_never_selected(training):
    valid = torch.tensor([True, True, False, True, False, True])
    select = layer(3).train(training)(SCORES, valid)
    assert select[:, ~valid].count_nonzero() == 0
    torch.testing.assert_close(select.sum(dim=1), torch.ones(3, dtype=torch.float64))


def test_invalid_patches_get_no_gradient():
    scores, valid = SCORES.clone().requires_grad_(), torch.arange(6) != 2
    layer(3)(scores, valid)[0].norm().backward()
    assert scores.grad[2] == 0
    assert scores.grad.isfinite().all()


def test_no_more_patches_are_selected_than_are_valid():
    valid = torch.tensor([True, False, False, False, False, True])
    assert layer(3)(SCORES, valid).tolist() == torch.eye(6)[[0, 5]].tolist()


def test_nan_scores_are_an_error():
    with pytest.raises(ValueError, match="1 of 2 scores are NaN"):
        layer(1)(torch.tensor([0.0, float("nan")]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k": 0}, "k=0: at least 1"),
        ({"k": 2, "sigma": -1.0}, "sigma=-1.0: a standard deviation"),
        ({"k": 2, "num_samples": 1}, "num_samples=1: at least 2"),
        ({"k": 2, "jacobian": "half"}, "jacobian='half' is unknown; use one of"),
    ],
)
def test_invalid_settings_are_an_error(settings, message):
    with pytest.raises(ValueError, match=message):
        PerturbedTopK(**settings)


@pytest.mark.parametrize("jacobian", ["full", "diagonal"])
def test_memory_is_linear_in_samples_times_patches_plus_selected_times_patches(jacobian):
    n, k, samples = 400, 50, 30
    kept: list[int] = []  # sizes of what waits for the backward pass
    scores = torch.randn(n, requires_grad=True)

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with LargestTensor() as made:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda kept: kept):
            select = layer(k, num_samples=samples, jacobian=jacobian)(scores)
        (select * select.detach()).sum().backward()
    assert made.size == max(samples * n, k * n)  # and not samples * k * n
    assert sorted(kept)[-2:] == [n, samples * k]  # indices, without one-hots and noise
