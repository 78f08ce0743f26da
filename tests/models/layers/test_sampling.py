"""Sampling from attention is exact in expectation: every ordered sample is enumerated."""

from collections.abc import Callable, Iterator
from itertools import permutations, product

import pytest
import torch
from torch import Tensor

from parfocal.models.layers.sampling import aggregate, draw, entropy, running_estimates

CELLS, DRAWS, DIM = 5, 3, 4


@pytest.fixture
def attention() -> Tensor:
    return torch.tensor([0.4, 0.3, 0.15, 0.1, 0.05], dtype=torch.float64)


@pytest.fixture
def features() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(CELLS, DIM, dtype=torch.float64, generator=generator) + 1


def ordered(a: Tensor, draws: int) -> Iterator[tuple[Tensor, float]]:
    """Every ordered sample without replacement, and its chance."""
    for cells in permutations(range(len(a)), draws):
        chance, left = 1.0, 1.0
        for cell in cells:
            chance *= a[cell].item() / left
            left -= a[cell].item()
        yield torch.tensor(cells), chance


def repeated(a: Tensor, draws: int) -> Iterator[tuple[Tensor, float]]:
    """Every sample with replacement, and its chance."""
    for cells in product(range(len(a)), repeat=draws):
        yield torch.tensor(cells), a[list(cells)].prod().item()


def expected(
    samples: Callable[[Tensor, int], Iterator[tuple[Tensor, float]]],
    a: Tensor,
    f: Tensor,
    **options,
) -> tuple[Tensor, Tensor, Tensor]:
    """E[F]; E[dF_d/da] as (n d); E[dF_0/df_i0] as (n,)."""
    value, of_attention, of_features = 0.0, 0.0, 0.0
    for cells, chance in samples(a, DRAWS):
        live_a, live_f = a.clone().requires_grad_(), f.clone().requires_grad_()
        estimate = aggregate(live_a, cells, live_f[cells], **options)
        rows = [torch.autograd.grad(each, live_a, retain_graph=True)[0] for each in estimate]
        (by_feature,) = torch.autograd.grad(estimate[0], live_f)
        value = value + chance * estimate.detach()
        of_attention = of_attention + chance * torch.stack(rows, dim=1)
        of_features = of_features + chance * by_feature[:, 0]
    return value, of_attention, of_features


def centerd(gradient: Tensor) -> Tensor:
    """What softmax, or any other normalization, leaves of a gradient."""
    return gradient - gradient.mean(dim=0)


@pytest.mark.parametrize("centerd_on", [None, 0.7])
def test_without_replacement_value_and_gradients_are_exact(attention, features, centerd_on):
    center = None if centerd_on is None else torch.full((DIM,), centerd_on, dtype=torch.float64)
    value, of_attention, of_features = expected(ordered, attention, features, center=center)
    assert (value - attention @ features).abs().max() < 1e-12
    assert (centerd(of_attention) - centerd(features)).abs().max() < 1e-12
    assert (of_features - attention).abs().max() < 1e-12


def test_with_replacement_value_and_gradients_are_exact(attention, features):
    value, of_attention, of_features = expected(
        repeated, attention, features, estimator="replacement"
    )
    assert (value - attention @ features).abs().max() < 1e-12
    assert (centerd(of_attention) - centerd(features)).abs().max() < 1e-12
    assert (of_features - attention).abs().max() < 1e-12


def test_without_baselines_the_gradient_of_attention_is_the_feature_itself(attention, features):
    """The form derived by hand: (f M / a + (k - 1 - t) f) / k."""
    total = torch.zeros_like(features)
    for cells, chance in ordered(attention, DRAWS):
        left = 1.0
        for t, cell in enumerate(cells.tolist()):
            weight = left / attention[cell] + DRAWS - 1 - t
            total[cell] += chance * weight * features[cell] / DRAWS
            left -= attention[cell]
    assert (total - features).abs().max() < 1e-12


def test_the_published_gradient_is_biased_and_its_value_is_not(attention, features):
    value, of_attention, of_features = expected(ordered, attention, features, estimator="published")
    assert (value - attention @ features).abs().max() < 1e-12
    assert (of_features - attention).abs().max() < 1e-12
    logits = attention[:, None] * (of_attention - attention @ of_attention)
    truth = attention[:, None] * (features - attention @ features)
    assert (logits - truth).norm() > 0.5 * truth.norm()


def test_the_literal_estimate_shrinks_and_the_renormalized_one_is_off_less(attention):
    """Of a feature that is 1 everywhere the mean is 1, and E[literal] the expected mass drawn."""
    ones = torch.ones(CELLS, DIM, dtype=torch.float64)
    literal, _, _ = expected(ordered, attention, ones, estimator="literal")
    mass = sum(chance * attention[cells].sum() for cells, chance in ordered(attention, DRAWS))
    assert literal[0] == pytest.approx(mass.item(), abs=1e-12)
    assert literal[0] < 0.9
    renormalized, _, _ = expected(ordered, attention, ones, estimator="renormalized")
    assert renormalized[0] == pytest.approx(1, abs=1e-12)


def test_the_renormalized_estimate_is_biased_too(attention, features):
    value, _, _ = expected(ordered, attention, features, estimator="renormalized")
    assert (value - attention @ features).abs().max() > 1e-3


def test_once_every_cell_is_drawn_the_last_estimate_is_exact(attention, features):
    order = torch.tensor([3, 0, 4, 2, 1])
    last = running_estimates(attention[order], features[order])[-1]
    assert (last - attention @ features).abs().max() < 1e-15


def test_running_estimates_are_uncorrelated_and_vary_less_than_repeated_draws(attention, features):
    truth = attention @ features
    covariance = torch.zeros(DRAWS, DRAWS, dtype=torch.float64)
    for cells, chance in ordered(attention, DRAWS):
        off = (running_estimates(attention[cells], features[cells]) - truth)[:, 0]
        covariance += chance * off.outer(off)
    one_draw = attention @ (features[:, 0] - truth[0]).square()
    assert (covariance - covariance.diag().diag()).abs().max() < 1e-12
    assert (covariance.diag() <= one_draw + 1e-12).all()


def test_ordered_draws_come_as_often_as_one_after_the_other(attention):
    """Each ordered pair within four standard errors of its chance."""
    generator = torch.Generator().manual_seed(0)
    times = 20_000
    counts = torch.zeros(CELLS, CELLS)
    for _ in range(times):
        first, second = draw(attention, 2, generator=generator).tolist()
        counts[first, second] += 1
    for cells, chance in ordered(attention, 2):
        error = (chance * (1 - chance) / times) ** 0.5
        assert abs(counts[tuple(cells)].item() / times - chance) < 4 * error


def test_the_same_seed_draws_the_same(attention):
    first, again = (
        draw(attention, 4, generator=torch.Generator().manual_seed(3)) for _ in range(2)
    )
    assert first.tolist() == again.tolist()


def test_cells_without_attention_are_never_drawn():
    attention = torch.tensor([0.0, 0.5, 0.0, 0.5])
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        assert sorted(draw(attention, 2, generator=generator).tolist()) == [1, 3]
        assert set(draw(attention, 5, replacement=True, generator=generator).tolist()) <= {1, 3}


def test_more_cells_than_there_are_cannot_be_drawn():
    attention = torch.tensor([0.0, 0.5, 0.5])
    with pytest.raises(ValueError, match="k=3 cells cannot be drawn from 2 with attention; draw"):
        draw(attention, 3)


def test_baselines_lower_the_variance_of_the_gradient():
    """On features with a mean in common, as those of every network with ReLUs."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(40, generator=generator)
    common = torch.ones(16)
    features = common + 0.3 * torch.randn(40, 16, generator=generator)

    def variance(center: Tensor | None) -> float:
        gradients = []
        for _ in range(400):
            live = scores.clone().requires_grad_()
            attention = live.softmax(dim=0)
            cells = draw(attention, 5, generator=generator)
            estimate = aggregate(attention, cells, features[cells], center=center)
            gradients.append(torch.autograd.grad(estimate.sum(), live)[0])
        return torch.stack(gradients).var(dim=0).sum().item()

    assert variance(common) < variance(None) / 2


def test_entropy_is_0_for_certainty_and_the_logarithm_for_evenness():
    assert entropy(torch.tensor([0.0, 1.0, 0.0])) == 0
    even = torch.full((58,), 1 / 58, dtype=torch.float64)
    assert entropy(even).item() == pytest.approx(torch.tensor(58.0).double().log().item())


def test_entropy_has_a_gradient_where_cells_are_dropped():
    attention = torch.tensor([0.0, 0.5, 0.5], requires_grad=True)
    alive = attention * torch.tensor([0.0, 1.0, 1.0])
    entropy(alive).backward()
    assert attention.grad.isfinite().all()
