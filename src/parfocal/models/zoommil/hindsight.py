"""Hindsight: learn where to zoom from the attention at higher magnifications.

Source: ours. The published method adds noise to the scores of the top-K and estimates a gradient
    from how the loss changes with the selection. With a few dozen slides and small lesions, that
    estimate is too noisy to learn from. The attention at the higher magnifications, however, is
    trained by backpropagation as in any attention model. It shows in hindsight which of the
    selected patches were worth zooming into, and is the training target of the zoom attention.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from parfocal.models.zoommil.topk import mask_scores, mean_one_hots, top_indices

EXPLORATION = 0.2  # probability, in training, that a patch is preferred regardless of its score
START_FRACTION = 0.3  # fraction of the patches to select at the start of training
# Progress at which that fraction starts to fall, and at which only K patches are left.
FALL_START, FALL_END = 0.2, 0.6


class ExploringTopK(nn.Module):
    """Select the K highest scores, as one-hot rows in the order of their positions.

    In training it selects more, so that the higher magnifications have enough patches to learn
    from: at first a fraction of `START_FRACTION`, which `set_progress` reduces until K are left.
    Each patch is also preferred with probability `EXPLORATION`: preferred patches rank above all
    others, so every patch can be selected. The selection has no gradient.

    Args:
        k: number of patches to select; all if there are fewer.
        generator: random generator on the CPU; None for PyTorch's default.
    """

    def __init__(self, k: int, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.k, self.generator, self.fraction = k, generator, START_FRACTION

    def forward(
        self, attention: Float[Tensor, " n"], valid: Bool[Tensor, " n"] | None = None
    ) -> Float[Tensor, "k n"]:
        """Return one one-hot row per selected patch.

        Args:
            attention: attention weights, from 0 to 1.
            valid: whether each patch exists; None if all do.

        Raises:
            ValueError: an attention weight is NaN.
        """
        scores, num_valid = mask_scores(attention.detach(), valid)
        k = self.k
        if self.training:
            k = max(k, math.ceil(self.fraction * num_valid))
            preferred = torch.rand(len(scores), generator=self.generator) < EXPLORATION
            scores = scores + preferred.to(scores)
        return mean_one_hots(top_indices(scores[None], min(k, num_valid)), scores)

    def set_progress(self, fraction: float) -> None:
        """Set the completed fraction of the training, from 0 to 1."""
        remaining = min(1.0, max(0.0, (FALL_END - fraction) / (FALL_END - FALL_START)))
        self.fraction = START_FRACTION * remaining**2


def hindsight_loss(
    zoom_scores: Sequence[Float[Tensor, " _"]],
    selected: Sequence[Int64[Tensor, " _"]],
    attention: Sequence[Float[Tensor, " _"]],
) -> Float[Tensor, ""]:
    """Return the divergence of the zoom attention from the attention found by zooming.

    For each zoom, the target is the attention at all higher magnifications, summed over the
    descendants of each selected patch and normalized to a sum of 1. The loss is the
    Kullback-Leibler divergence between this target and the softmax of the zoom scores of the
    selected patches, summed over the zooms. Patches that were not selected do not contribute. Only
    `zoom_scores` gets a gradient.

    Args:
        zoom_scores: one tensor per zoom, lowest magnification first: the scores, before the
            softmax, by which patches were selected.
        selected: one tensor per zoom: positions of the selected patches; the patches at the next
            magnification are their children, in this order.
        attention: one tensor per magnification: the attention weights of its patches.
    """
    loss = torch.zeros((), device=attention[-1].device)
    # Target at the next magnification, which carries the attention of all that are higher still.
    inherited = torch.zeros_like(attention[-1])
    zooms = list(zip(zoom_scores, selected, attention[1:], strict=True))
    for scores, parents, child_attention in reversed(zooms):
        positions = parents.to(scores.device)
        children = (child_attention.detach() + inherited).view(len(positions), -1)  # k children
        sums = children.sum(dim=1)
        target = sums / sums.sum()
        log_zoom_attention = scores[positions].log_softmax(dim=0)
        loss = loss + nn.functional.kl_div(log_zoom_attention, target, reduction="sum")
        inherited = torch.zeros_like(scores).index_copy(0, positions, target)
    return loss
