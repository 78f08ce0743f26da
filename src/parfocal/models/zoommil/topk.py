"""Perturbed top-K: a differentiable selection of the K highest scores.

Source: Berthet et al., "Learning with Differentiable Perturbed Optimizers", NeurIPS 2020;
    Cordonnier et al., "Differentiable Patch Selection for Image Recognition", CVPR 2021.
Departs: the gradient uses the whole Jacobian; the code of Cordonnier and of ZoomMIL uses only its
    diagonal, which is `jacobian="diagonal"` here. Indices are stored instead of one-hot vectors,
    and the noise is drawn again from its seed in the backward pass, so the memory for n scores and
    N samples is linear in nK + nN.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from parfocal.models.choice import require_choice
from parfocal.models.layers.topk import mask_scores, mean_one_hots, top_indices

JACOBIANS = ("full", "diagonal")


class PerturbedTopK(nn.Module):
    """Select the K highest scores, one per row, in the order of their positions.

    In training, each row is the mean of `num_samples` one-hot vectors: the top K of the scores with
    Gaussian noise. Otherwise it is the one-hot vector of the scores without noise. The first of
    equal scores wins.

    Let T be the mean over samples s of the one-hot matrices Y_s, Z_s their noise, and G the
    gradient at T. Then the gradient at the scores is the mean of g_s Z_s / sigma with
    g_s = <G, Y_s>. Entries of G count only where a sample selected them.

    Args:
        k: number of scores to select; all if there are fewer.
        sigma: standard deviation of the noise, in units of the scores; 0 for no noise.
        num_samples: number of samples of the noise.
        jacobian: "full" for the gradient above; "diagonal" for that of ZoomMIL's code, which is
            biased.
        baseline: whether to subtract from g_s the mean over the other samples, which reduces the
            variance of the gradient and keeps its mean.
        generator: random generator on the CPU; None for PyTorch's default.

    Raises:
        ValueError: an argument is invalid.
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
            raise ValueError(f"sigma={sigma}: a standard deviation is 0 or more.")
        if num_samples < 2:
            raise ValueError(f"num_samples={num_samples}: at least 2 samples are needed.")
        require_choice("jacobian", jacobian, JACOBIANS)
        self.k = k
        self.sigma = sigma
        self.num_samples = num_samples
        self.jacobian = jacobian
        self.baseline = baseline
        self.generator = generator

    def forward(
        self, scores: Float[Tensor, " n"], valid: Bool[Tensor, " n"] | None = None
    ) -> Float[Tensor, "k n"]:
        """Return one row per selected score; each row sums to 1.

        Without noise, or if all scores are selected, the result is constant and the scores get no
        gradient.

        Args:
            scores: scores to select from.
            valid: whether each score may be selected; None if all may.

        Raises:
            ValueError: a score is NaN.
        """
        scores, num_valid = mask_scores(scores, valid)
        k = min(self.k, num_valid)
        if not self.training or self.sigma == 0 or k == num_valid:
            return mean_one_hots(top_indices(scores[None], k), scores)
        seed = int(torch.randint(2**63 - 1, (), generator=self.generator))
        noise = _Noise(seed, self.num_samples, self.sigma, self.jacobian, self.baseline)
        selected: Tensor = _PerturbedMean.apply(scores, k, noise)  # type: ignore[no-untyped-call]
        return selected


@dataclass(frozen=True)
class _Noise:
    """The noise of one forward pass, and how the backward pass uses it."""

    seed: int
    num_samples: int
    sigma: float
    jacobian: str
    baseline: bool

    def draw(self, like: Float[Tensor, " n"]) -> Float[Tensor, "s n"]:
        generator = torch.Generator(like.device).manual_seed(self.seed)
        return like.new_empty(self.num_samples, len(like)).normal_(generator=generator)


class _PerturbedMean(torch.autograd.Function):
    """The mean of one-hot matrices, with a gradient estimated from the same samples."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, k: int, noise: _Noise) -> Tensor:
        indices = top_indices(scores + noise.sigma * noise.draw(scores), k)  # s k
        ctx.noise = noise
        ctx.save_for_backward(indices)
        return mean_one_hots(indices, scores)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        (indices,) = ctx.saved_tensors
        noise: _Noise = ctx.noise
        z = noise.draw(upstream[0])  # s n
        if noise.jacobian == "diagonal":
            return _diagonal(upstream, indices, z) / noise.sigma, None, None
        g = upstream.gather(1, indices.T).sum(dim=0)  # s: <G, Y_s>
        samples = noise.num_samples
        if noise.baseline:  # g_s minus the mean of the others is (g_s - mean) s / (s - 1)
            g, samples = g - g.mean(), samples - 1
        return g @ z / (samples * noise.sigma), None, None


def _diagonal(
    upstream: Float[Tensor, "k n"], indices: Int64[Tensor, "s k"], noise: Float[Tensor, "s n"]
) -> Float[Tensor, " n"]:
    """Return the sum over k of G times the mean of Y Z, element by element."""
    sums = torch.zeros_like(upstream).scatter_add_(1, indices.T, noise.gather(1, indices).T)
    return (upstream * (sums / len(indices))).sum(dim=0)
