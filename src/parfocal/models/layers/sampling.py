"""Estimate an attention-weighted mean from a few cells sampled by their attention.

The mean is F = sum_i a_i f_i. Cells are sampled one after the other by their attention a, with or
without replacement, and features f are computed for the sampled cells alone. The default estimator
is unbiased: the expected values of F and of its gradients are exact.

Source: Katharopoulos & Fleuret, "Processing Megapixel Images with Deep Attention-Sampling
    Models", ICML 2019; the estimator without replacement is by Des Raj (1956).
Departs: the gradient of the attention is derived again, because the one in the authors' code is
    biased (`published_gradient` reproduces it). `partial_sum` is Eq. 2 of Zhang et al.,
    CVPR-W 2021.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

ESTIMATORS = (
    "unbiased",
    "with_replacement",
    "partial_sum",
    "renormalized",
    "published_gradient",
)


def sample_cells(
    attention: Float[Tensor, " n"],
    k: int,
    *,
    replacement: bool = False,
    generator: torch.Generator | None = None,
) -> Int64[Tensor, " k"]:
    """Sample cells by their attention, and return their positions in the order sampled.

    Without replacement this is the Gumbel-top-k trick: sorting log a_i plus Gumbel noise in
    descending order is equivalent to sampling one cell after the other from the remaining cells.

    Args:
        attention: attention of each cell; sums to 1. Cells with attention 0 are never sampled.
        k: number of cells to sample.
        replacement: whether the same cell may be sampled more than once.
        generator: random number generator; None for the global one.

    Raises:
        ValueError: too few cells have attention.
    """
    a = attention.detach()
    available = int(a.count_nonzero())
    if available < (min(k, 1) if replacement else k):
        raise ValueError(
            f"k={k}: only {available} cells have attention above 0; sample at most that many."
        )
    device = a.device if generator is None else generator.device
    if replacement:
        sampled = torch.multinomial(a.to(device), k, replacement=True, generator=generator)
        return sampled.to(a.device)
    # -log of an exponential variable is a Gumbel variable.
    exponential = torch.empty(a.shape, device=device).exponential_(generator=generator).to(a)
    return (a.log() - exponential.log()).topk(k).indices


def aggregate(
    attention: Float[Tensor, " n"],
    sampled: Int64[Tensor, " k"],
    features: Float[Tensor, "k d"],
    *,
    estimator: str = "unbiased",
    center: Float[Tensor, " d"] | None = None,
) -> Float[Tensor, " d"]:
    """Estimate sum_i a_i f_i from the features of the sampled cells.

    | estimator | value |
    |---|---|
    | unbiased | unbiased, for cells sampled without replacement |
    | with_replacement | unbiased, for cells sampled with replacement |
    | partial_sum | sum of a_q f_q over the sampled cells; biased |
    | renormalized | partial_sum divided by the sum of a_q over the sampled cells; biased |
    | published_gradient | as unbiased, with the biased attention gradient of the authors' code |

    Args:
        attention: attention of all cells; sums to 1.
        sampled: positions of the sampled cells, in the order of `sample_cells`.
        features: features of the sampled cells.
        estimator: estimator to use; see above.
        center: approximate mean of the features, from other slides; it lowers the variance of
            the gradient. None for zeros.

    Returns:
        The estimate. The expected gradient of a_i is f_i plus a constant that is the same for all
        i, which has no effect on normalized attention.
    """
    a = attention[sampled]  # k
    if estimator == "partial_sum":
        return a @ features
    if estimator == "renormalized":
        return a @ features / a.sum()
    fixed, f = a.detach(), features.detach()
    if estimator == "with_replacement":
        return features.mean(dim=0) + (a - fixed) @ _replacement_gradient(fixed, f)
    estimates = running_estimates(fixed, features)  # k d
    if estimator == "published_gradient":
        gradient = _published_gradient(fixed, f, estimates.detach())
    else:
        start = torch.zeros_like(f[0]) if center is None else center
        gradient = _gradient(fixed, f, _baselines(f, start))
    # The first term has the value and the gradient of f; the second has the value 0 and the
    # gradient of a.
    return estimates.mean(dim=0) + (a - fixed) @ gradient


def running_estimates(
    attention: Float[Tensor, " k"], features: Float[Tensor, "k d"]
) -> Float[Tensor, "k d"]:
    """Return e_t = sum_{j<t} a_j f_j + (1 - sum_{j<t} a_j) f_t, an unbiased estimate for each t.

    The estimates are uncorrelated, so the error of their mean follows from their variance.

    Args:
        attention: attention of cells sampled without replacement, in the order sampled.
        features: features of the same cells.
    """
    left = 1 - _sum_before(attention)
    return _sum_before(attention[:, None] * features) + left[:, None] * features


def entropy(attention: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    """Return the entropy -sum a log a: 0 if one cell has all attention, log n if it is uniform."""
    # The slope of the entropy at 0 is infinite.
    total: Tensor = torch.special.entr(attention[attention > 0]).sum()
    return total


def _gradient(
    a: Float[Tensor, " k"], f: Float[Tensor, "k d"], baselines: Float[Tensor, "k d"]
) -> Float[Tensor, "k d"]:
    """Return ((1 - sum_{j<t} a_j) / a_t (f_t - c_t) + sum_{s>t} (f_t - c_s)) / k for each t.

    The baseline c_t depends only on the cells sampled before t. Conditional on these, the
    expected gradient of the t-th estimate is f_i - c_t for every i, whether sampled before or not.
    """
    k = len(a)
    later = torch.arange(k - 1, -1, -1, device=a.device)[:, None]
    weight = ((1 - _sum_before(a)) / a)[:, None]
    after = baselines.sum(dim=0) - baselines.cumsum(dim=0)
    return (weight * (f - baselines) + later * f - after) / k


def _baselines(f: Float[Tensor, "k d"], start: Float[Tensor, " d"]) -> Float[Tensor, "k d"]:
    """Return, for each cell, the mean of the features sampled before it; `start` for the first."""
    count = torch.arange(1, len(f), device=f.device)[:, None]
    return torch.cat([start[None].to(f), f.cumsum(dim=0)[:-1] / count])


def _replacement_gradient(a: Float[Tensor, " k"], f: Float[Tensor, "k d"]) -> Float[Tensor, "k d"]:
    """Return (f_t - c_t) / (k a_t), where c_t is the mean of the other samples."""
    k = len(a)
    others = (f.sum(dim=0) - f) / max(1, k - 1)
    return (f - others) / (k * a[:, None])


def _published_gradient(
    a: Float[Tensor, " k"], f: Float[Tensor, "k d"], estimates: Float[Tensor, "k d"]
) -> Float[Tensor, "k d"]:
    """Return (e_t (1 - sum_{j<t} a_j) / a_t + sum_{j<t} f_j - t f_t) / k, as the authors' code."""
    k = len(a)
    earlier = torch.arange(k, device=a.device)[:, None]
    weight = ((1 - _sum_before(a)) / a)[:, None]
    return (weight * estimates + _sum_before(f) - earlier * f) / k


def _sum_before(values: Float[Tensor, "k *d"]) -> Float[Tensor, "k *d"]:
    """Return the exclusive cumulative sum along the first axis."""
    return values.cumsum(dim=0) - values
