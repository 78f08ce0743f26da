"""Estimates from sampled cells are exact in expectation: all ordered samples are enumerated."""

from collections.abc import Callable, Iterator
from itertools import permutations, product

import pytest
import torch
from torch import Tensor

from parfocal.models.layers.sampling import aggregate, entropy, running_estimates, sample_cells

CELLS, SAMPLES, DIM = 5, 3, 4


@pytest.fixture
def attention() -> Tensor:
    return torch.tensor([0.4, 0.3, 0.15, 0.1, 0.05], dtype=torch.float64)


@pytest.fixture
def features() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(CELLS, DIM, dtype=torch.float64, generator=generator) + 1


def without_replacement(a: Tensor, k: int) -> Iterator[tuple[Tensor, float]]:
    """Yield every ordered sample without replacement, and its probability."""
    for cells in permutations(range(len(a)), k):
        probability, left = 1.0, 1.0
        for cell in cells:
            probability *= a[cell].item() / left
            left -= a[cell].item()
        yield torch.tensor(cells), probability


def with_replacement(a: Tensor, k: int) -> Iterator[tuple[Tensor, float]]:
    """Yield every sample with replacement, and its probability."""
    for cells in product(range(len(a)), repeat=k):
        yield torch.tensor(cells), a[list(cells)].prod().item()


def expected(
    samples: Callable[[Tensor, int], Iterator[tuple[Tensor, float]]],
    a: Tensor,
    f: Tensor,
    **options,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return E[F], E[dF_d/da] as (n d) and E[dF_0/df_i0] as (n,)."""
    value, attention_gradient, feature_gradient = 0.0, 0.0, 0.0
    for cells, probability in samples(a, SAMPLES):
        live_a, live_f = a.clone().requires_grad_(), f.clone().requires_grad_()
        estimate = aggregate(live_a, cells, live_f[cells], **options)
        rows = [torch.autograd.grad(each, live_a, retain_graph=True)[0] for each in estimate]
        (by_feature,) = torch.autograd.grad(estimate[0], live_f)
        value = value + probability * estimate.detach()
        attention_gradient = attention_gradient + probability * torch.stack(rows, dim=1)
        feature_gradient = feature_gradient + probability * by_feature[:, 0]
    return value, attention_gradient, feature_gradient


def centered(gradient: Tensor) -> Tensor:
    """Subtract the mean, as the gradient of softmax or of any other normalization does."""
    return gradient - gradient.mean(dim=0)


@pytest.mark.parametrize("center_value", [None, 0.7])
def test_without_replacement_value_and_gradients_are_exact(attention, features, center_value):
    center = None if center_value is None else torch.full((DIM,), center_value, dtype=torch.float64)
    value, attention_gradient, feature_gradient = expected(
        without_replacement, attention, features, center=center
    )
    assert (value - attention @ features).abs().max() < 1e-12
    assert (centered(attention_gradient) - centered(features)).abs().max() < 1e-12
    assert (feature_gradient - attention).abs().max() < 1e-12


def test_with_replacement_value_and_gradients_are_exact(attention, features):
    value, attention_gradient, feature_gradient = expected(
        with_replacement, attention, features, estimator="with_replacement"
    )
    assert (value - attention @ features).abs().max() < 1e-12
    assert (centered(attention_gradient) - centered(features)).abs().max() < 1e-12
    assert (feature_gradient - attention).abs().max() < 1e-12


def test_without_baselines_the_expected_gradient_of_attention_is_the_feature(attention, features):
    """The closed form is (f M / a + (k - 1 - t) f) / k, with M the attention not yet sampled."""
    total = torch.zeros_like(features)
    for cells, probability in without_replacement(attention, SAMPLES):
        left = 1.0
        for t, cell in enumerate(cells.tolist()):
            weight = left / attention[cell] + SAMPLES - 1 - t
            total[cell] += probability * weight * features[cell] / SAMPLES
            left -= attention[cell]
    assert (total - features).abs().max() < 1e-12


def test_the_published_gradient_is_biased_and_its_value_is_not(attention, features):
    value, attention_gradient, feature_gradient = expected(
        without_replacement, attention, features, estimator="published_gradient"
    )
    assert (value - attention @ features).abs().max() < 1e-12
    assert (feature_gradient - attention).abs().max() < 1e-12
    logits = attention[:, None] * (attention_gradient - attention @ attention_gradient)
    truth = attention[:, None] * (features - attention @ features)
    assert (logits - truth).norm() > 0.5 * truth.norm()


def test_the_partial_sum_is_too_small_and_renormalizing_corrects_it_for_a_constant(attention):
    """For a feature of 1 everywhere, the partial sum is the attention that was sampled."""
    ones = torch.ones(CELLS, DIM, dtype=torch.float64)
    partial_sum, _, _ = expected(without_replacement, attention, ones, estimator="partial_sum")
    mass = sum(
        probability * attention[cells].sum()
        for cells, probability in without_replacement(attention, SAMPLES)
    )
    assert partial_sum[0] == pytest.approx(mass.item(), abs=1e-12)
    assert partial_sum[0] < 0.9
    renormalized, _, _ = expected(without_replacement, attention, ones, estimator="renormalized")
    assert renormalized[0] == pytest.approx(1, abs=1e-12)


def test_the_renormalized_estimate_is_biased_too(attention, features):
    value, _, _ = expected(without_replacement, attention, features, estimator="renormalized")
    assert (value - attention @ features).abs().max() > 1e-3


def test_once_every_cell_is_sampled_the_last_estimate_is_exact(attention, features):
    order = torch.tensor([3, 0, 4, 2, 1])
    last = running_estimates(attention[order], features[order])[-1]
    assert (last - attention @ features).abs().max() < 1e-15


def test_running_estimates_are_uncorrelated_and_have_less_variance_than_single_samples(
    attention, features
):
    truth = attention @ features
    covariance = torch.zeros(SAMPLES, SAMPLES, dtype=torch.float64)
    for cells, probability in without_replacement(attention, SAMPLES):
        error = (running_estimates(attention[cells], features[cells]) - truth)[:, 0]
        covariance += probability * error.outer(error)
    single_variance = attention @ (features[:, 0] - truth[0]).square()
    assert (covariance - covariance.diag().diag()).abs().max() < 1e-12
    assert (covariance.diag() <= single_variance + 1e-12).all()


def test_ordered_pairs_occur_with_their_probability(attention):
    """The frequency of each pair lies within four standard errors."""
    generator = torch.Generator().manual_seed(0)
    times = 20_000
    counts = torch.zeros(CELLS, CELLS)
    for _ in range(times):
        first, second = sample_cells(attention, 2, generator=generator).tolist()
        counts[first, second] += 1
    for cells, probability in without_replacement(attention, 2):
        error = (probability * (1 - probability) / times) ** 0.5
        assert abs(counts[tuple(cells)].item() / times - probability) < 4 * error


def test_the_same_seed_gives_the_same_samples(attention):
    first, again = (
        sample_cells(attention, 4, generator=torch.Generator().manual_seed(3)) for _ in range(2)
    )
    assert first.tolist() == again.tolist()


def test_cells_without_attention_are_never_sampled():
    attention = torch.tensor([0.0, 0.5, 0.0, 0.5])
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        assert sorted(sample_cells(attention, 2, generator=generator).tolist()) == [1, 3]
        assert set(sample_cells(attention, 5, replacement=True, generator=generator).tolist()) <= {
            1,
            3,
        }


def test_more_cells_than_have_attention_are_refused():
    attention = torch.tensor([0.0, 0.5, 0.5])
    with pytest.raises(ValueError, match="k=3: only 2 cells have attention above 0"):
        sample_cells(attention, 3)


def test_baselines_lower_the_variance_of_the_gradient():
    """The features share a mean, as those of every network with ReLUs do."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(40, generator=generator)
    common = torch.ones(16)
    features = common + 0.3 * torch.randn(40, 16, generator=generator)

    def variance(center: Tensor | None) -> float:
        gradients = []
        for _ in range(400):
            live = scores.clone().requires_grad_()
            attention = live.softmax(dim=0)
            cells = sample_cells(attention, 5, generator=generator)
            estimate = aggregate(attention, cells, features[cells], center=center)
            gradients.append(torch.autograd.grad(estimate.sum(), live)[0])
        return torch.stack(gradients).var(dim=0).sum().item()

    assert variance(common) < variance(None) / 2


def test_entropy_is_0_for_a_single_cell_and_log_n_for_uniform_attention():
    assert entropy(torch.tensor([0.0, 1.0, 0.0])) == 0
    uniform = torch.full((58,), 1 / 58, dtype=torch.float64)
    assert entropy(uniform).item() == pytest.approx(torch.tensor(58.0).double().log().item())


def test_entropy_has_a_gradient_where_cells_are_dropped():
    attention = torch.tensor([0.0, 0.5, 0.5], requires_grad=True)
    alive = attention * torch.tensor([0.0, 1.0, 1.0])
    entropy(alive).backward()
    assert attention.grad.isfinite().all()
