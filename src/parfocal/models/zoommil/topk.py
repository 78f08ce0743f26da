"""Perturbed top-K: choose the K best, in a way a gradient passes through.

Source: Berthet et al., "Learning with Differentiable Perturbed Optimizers", NeurIPS 2020;
    Cordonnier et al., "Differentiable Patch Selection for Image Recognition", CVPR 2021.
Departs: the gradient is the whole Jacobian; the code of Cordonnier and of ZoomMIL has its diagonal
    alone, here `jacobian="diagonal"`. Indices are kept in place of one-hots, and the noise is
    drawn again from its seed, so memory is linear in nK + nN.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

JACOBIANS = ("full", "diagonal")


class PerturbedTopK(nn.Module):
    """Select the K highest scores, one a row, in the order of their positions.

    In training each row is the mean of `num_samples` one-hots, those of the top K of scores with
    Gaussian noise; after it, the one-hot of the scores as they are. Ties go to the first.

    With T = mean of Y_s over samples s, and G the gradient at T, the gradient at the scores is
    mean of g_s Z_s / sigma, where g_s = <G, Y_s> and Z_s is the noise. G counts only where an
    entry was drawn.

    Args:
        k: how many; fewer where there are fewer.
        sigma: standard deviation of the noise, in units of the scores; 0 for none.
        num_samples: draws of the noise.
        jacobian: "full" as above, or "diagonal" as ZoomMIL's code has it, which is biased.
        baseline: subtract from g_s the mean of the other samples, which leaves the mean of the
            gradient as it is and takes most of its variance.
        generator: of every draw, on the CPU; None for torch's own.

    Raises:
        ValueError: `k` or `sigma` or `num_samples` is too small, or `jacobian` is another.
    """

    def __init__(
        self,
        k: int,
        *,
        sigma: float = 2e-3,
        num_samples: int = 100,
        jacobian: str = "full",
        baseline: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if k < 1:
            raise ValueError(f"k={k}: at least 1 patch has to be selected.")
        if sigma < 0:
            raise ValueError(f"sigma={sigma}: the noise has a standard deviation of 0 or more.")
        if num_samples < 2:
            raise ValueError(f"num_samples={num_samples}: a mean over draws takes 2 or more.")
        if jacobian not in JACOBIANS:
            raise ValueError(f"jacobian={jacobian!r} is unknown; it is one of {JACOBIANS}.")
        self.k = k
        self.sigma = sigma
        self.num_samples = num_samples
        self.jacobian = jacobian
        self.baseline = baseline
        self.generator = generator

    def forward(
        self, scores: Float[Tensor, " n"], valid: Bool[Tensor, " n"] | None = None
    ) -> Float[Tensor, "k n"]:
        """Select; each row sums to 1.

        Where everything is selected, or nothing is random, the result is constant and the scores
        get no gradient.

        Args:
            scores: the higher the better.
            valid: False where an instance must not be selected; None where all may.

        Raises:
            ValueError: a score is not a number.
        """
        scores, most = masked(scores, valid)
        k = min(self.k, most)
        if not self.training or self.sigma == 0 or k == most:
            return mean_one_hots(top_indices(scores[None], k), scores)
        seed = int(torch.randint(2**63 - 1, (), generator=self.generator))
        draw = _Draw(seed, self.num_samples, self.sigma, self.jacobian, self.baseline)
        selected: Tensor = _PerturbedMean.apply(scores, k, draw)  # type: ignore[no-untyped-call]
        return selected


def masked(
    scores: Float[Tensor, " n"], valid: Bool[Tensor, " n"] | None
) -> tuple[Float[Tensor, " n"], int]:
    """Put instances that must not be selected below all others, and count those that may.

    Raises:
        ValueError: a score is not a number.
    """
    exists = torch.ones_like(scores, dtype=torch.bool) if valid is None else valid
    scores = scores.masked_fill(~exists.to(scores.device), float("-inf"))
    if scores.isnan().any():
        raise ValueError(
            f"{int(scores.isnan().sum())} of {len(scores)} scores are not numbers, so there is "
            "no top-K. Look for NaN in the features; else training diverged: lower its rate."
        )
    return scores, int(exists.sum())


def top_indices(scores: Float[Tensor, "s n"], k: int) -> Int64[Tensor, "s k"]:
    """Give the positions of the k highest of each row, ascending; ties go to the first."""
    lowest = scores.topk(k, dim=1, sorted=False).values.amin(dim=1, keepdim=True)
    chosen = scores >= lowest
    if int(chosen.sum()) > k * len(scores):
        above, level = scores > lowest, scores == lowest
        chosen = above | (level & (level.cumsum(1) <= k - above.sum(1, keepdim=True)))
    return chosen.nonzero()[:, 1].view(-1, k)


def mean_one_hots(indices: Int64[Tensor, "s k"], like: Float[Tensor, " n"]) -> Float[Tensor, "k n"]:
    """Average the one-hots of samples of indices."""
    rows = indices.T  # k s
    counts = like.new_zeros(len(rows), len(like))
    return counts.scatter_add_(1, rows, like.new_ones(rows.shape)) / len(indices)


@dataclass(frozen=True)
class _Draw:
    """The noise of one forward pass, and how the backward pass uses it."""

    seed: int
    num_samples: int
    sigma: float
    jacobian: str
    baseline: bool

    def noise(self, like: Float[Tensor, " n"]) -> Float[Tensor, "s n"]:
        generator = torch.Generator(like.device).manual_seed(self.seed)
        return like.new_empty(self.num_samples, len(like)).normal_(generator=generator)


class _PerturbedMean(torch.autograd.Function):
    """The mean of one-hots, with its gradient estimated from the same draws."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, k: int, draw: _Draw) -> Tensor:
        indices = top_indices(scores + draw.sigma * draw.noise(scores), k)  # s k
        ctx.draw = draw
        ctx.save_for_backward(indices)
        return mean_one_hots(indices, scores)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        (indices,) = ctx.saved_tensors
        draw: _Draw = ctx.draw
        noise = draw.noise(upstream[0])  # s n
        if draw.jacobian == "diagonal":
            return _diagonal(upstream, indices, noise) / draw.sigma, None, None
        gain = upstream.gather(1, indices.T).sum(dim=0)  # s: <G, Y_s>
        samples = draw.num_samples
        if draw.baseline:  # g_s less the mean of the others is (g_s - mean) s / (s - 1)
            gain, samples = gain - gain.mean(), samples - 1
        return gain @ noise / (samples * draw.sigma), None, None


def _diagonal(
    upstream: Float[Tensor, "k n"], indices: Int64[Tensor, "s k"], noise: Float[Tensor, "s n"]
) -> Float[Tensor, " n"]:
    """Sum over k of G times the mean of Y Z, element by element."""
    drawn = torch.zeros_like(upstream).scatter_add_(1, indices.T, noise.gather(1, indices).T)
    return (upstream * (drawn / len(indices))).sum(dim=0)
