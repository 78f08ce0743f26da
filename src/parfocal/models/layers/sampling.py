"""Sampling from attention: a few draws in place of the attention-weighted mean of everything.

The mean is F = sum_i a_i f_i. Cells are drawn in order, with or without replacement, and f is
asked for at these alone; both F and its gradients are exact in expectation.

Source: Katharopoulos & Fleuret, "Processing Megapixel Images with Deep Attention-Sampling
    Models", ICML 2019; the estimator without replacement is Des Raj's of 1956.
Departs: the gradient of the attention is derived anew, because the one in the authors' code is
    biased (`published` reproduces it). `literal` is Eq. 2 of Zhang et al., CVPR-W 2021.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

ESTIMATORS = ("unbiased", "replacement", "literal", "renormalized", "published")


def draw(
    attention: Float[Tensor, " n"],
    k: int,
    *,
    replacement: bool = False,
    generator: torch.Generator | None = None,
) -> Int64[Tensor, " k"]:
    """Draw cells by their attention, in the order drawn.

    Without replacement by the Gumbel-top-k trick: log a_i plus Gumbel noise, in falling order, is
    in the order of drawing one after the other from what is left.

    Args:
        attention: sums to 1; cells of 0 are never drawn.
        k: how many.
        replacement: whether one may be drawn again.
        generator: of the draws; None for torch's own.

    Raises:
        ValueError: fewer cells have attention than are to be drawn without replacement.
    """
    a = attention.detach()
    live = int(a.count_nonzero())
    if live < (min(k, 1) if replacement else k):
        raise ValueError(f"k={k} cells cannot be drawn from {live} with attention; draw fewer.")
    place = a.device if generator is None else generator.device
    if replacement:
        return torch.multinomial(a.to(place), k, replacement=True, generator=generator).to(a.device)
    waits = torch.empty(a.shape, device=place).exponential_(generator=generator).to(a)
    return (a.log() - waits.log()).topk(k).indices


def aggregate(
    attention: Float[Tensor, " n"],
    drawn: Int64[Tensor, " k"],
    features: Float[Tensor, "k d"],
    *,
    estimator: str = "unbiased",
    center: Float[Tensor, " d"] | None = None,
) -> Float[Tensor, " d"]:
    """Estimate sum_i a_i f_i from some f_i.

    Args:
        attention: of all cells, sums to 1.
        drawn: the cells, in the order `draw` gives.
        features: of these.
        estimator: "unbiased" for draws without replacement, "replacement" for draws with it;
            "literal" is sum_q a_q f_q, "renormalized" that over sum_q a_q, both biased;
            "published" has the value of "unbiased", and the authors' gradient of attention.
        center: about where features lie, from other slides; lowers the gradient's variance.

    Returns:
        The estimate. The expected gradient of a_i is f_i but for a constant that is the same for
        all i, which does not matter to what normalized the attention.
    """
    a = attention[drawn]  # k
    if estimator == "literal":
        return a @ features
    if estimator == "renormalized":
        return a @ features / a.sum()
    fixed, f = a.detach(), features.detach()
    if estimator == "replacement":
        return features.mean(dim=0) + (a - fixed) @ _gradient_of_repeated(fixed, f)
    estimates = running_estimates(fixed, features)  # k d
    if estimator == "published":
        gradient = _published_gradient(fixed, f, estimates.detach())
    else:
        start = torch.zeros_like(f[0]) if center is None else center
        gradient = _gradient(fixed, f, _baselines(f, start))
    # The value, which gives the right gradient of f; and, worth nothing, the gradient of a.
    return estimates.mean(dim=0) + (a - fixed) @ gradient


def running_estimates(
    attention: Float[Tensor, " k"], features: Float[Tensor, "k d"]
) -> Float[Tensor, "k d"]:
    """Give e_t = sum_{j<t} a_j f_j + (1 - sum_{j<t} a_j) f_t, each an unbiased estimate.

    They are uncorrelated, so their spread tells how far their mean may be off.

    Args:
        attention: of what was drawn without replacement, in that order.
        features: likewise.
    """
    left = 1 - _before(attention)
    return _before(attention[:, None] * features) + left[:, None] * features


def entropy(attention: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    """Give -sum a log a; 0 where all attention is on one cell, log n where it is even."""
    total: Tensor = torch.special.entr(attention[attention > 0]).sum()  # at 0 its slope is infinite
    return total


def _gradient(
    a: Float[Tensor, " k"], f: Float[Tensor, "k d"], baselines: Float[Tensor, "k d"]
) -> Float[Tensor, "k d"]:
    """Give, of draw t, ((1 - sum_{j<t} a_j) / a_t (f_t - c_t) + sum_{s>t} (f_t - c_s)) / k.

    What was drawn before t is known, and c_t depends on nothing else. Given that, the expected
    gradient of the t-th estimate is f_i - c_t for every i, drawn before or not.
    """
    k = len(a)
    later = torch.arange(k - 1, -1, -1, device=a.device)[:, None]
    weight = ((1 - _before(a)) / a)[:, None]
    after = baselines.sum(dim=0) - baselines.cumsum(dim=0)
    return (weight * (f - baselines) + later * f - after) / k


def _baselines(f: Float[Tensor, "k d"], start: Float[Tensor, " d"]) -> Float[Tensor, "k d"]:
    """Give the mean of the features drawn before each, and of the first `start`."""
    count = torch.arange(1, len(f), device=f.device)[:, None]
    return torch.cat([start[None].to(f), f.cumsum(dim=0)[:-1] / count])


def _gradient_of_repeated(a: Float[Tensor, " k"], f: Float[Tensor, "k d"]) -> Float[Tensor, "k d"]:
    """Give (f_t - c_t) / (k a_t), c_t the mean of the other draws, which t tells nothing of."""
    k = len(a)
    others = (f.sum(dim=0) - f) / max(1, k - 1)
    return (f - others) / (k * a[:, None])


def _published_gradient(
    a: Float[Tensor, " k"], f: Float[Tensor, "k d"], estimates: Float[Tensor, "k d"]
) -> Float[Tensor, "k d"]:
    """Give (e_t (1 - sum_{j<t} a_j) / a_t + sum_{j<t} f_j - t f_t) / k, as the authors' code."""
    k = len(a)
    earlier = torch.arange(k, device=a.device)[:, None]
    weight = ((1 - _before(a)) / a)[:, None]
    return (weight * estimates + _before(f) - earlier * f) / k


def _before(values: Float[Tensor, "k *d"]) -> Float[Tensor, "k *d"]:
    """Sum what stands before each."""
    return values.cumsum(dim=0) - values
