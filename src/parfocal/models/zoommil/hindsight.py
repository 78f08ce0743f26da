"""Hindsight: where to zoom, learned from what was found there.

Source: ours. The published way to learn it, noise on the scores of the top-K, tells a choice by how
    the loss changes, which a few dozen slides with small lesions drown in chance. Sharp patches
    need no such luck: attention among them is learned as in any attention model, and says in
    hindsight which of the patches zoomed into were worth it.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from parfocal.models.zoommil.topk import masked, mean_one_hots, top_indices

AT_RANDOM = 0.2  # chance of a patch to come first in training, whatever its score
# The share of the patches selected in training, until so much of it is over; then it falls, to none
# but K at the second mark.
SHARE, FALLS = 0.3, (0.2, 0.6)


class ExploringTopK(nn.Module):
    """Select the K highest scores, one a row, in the order of their positions.

    In training more are selected, `SHARE` of them at first, by `set_progress` fewer and fewer down
    to K; and a patch comes first with a chance of `AT_RANDOM`. So the sharp magnifications
    see enough of a slide to learn from, and no patch is beyond finding. No gradient.

    Args:
        k: how many; fewer where there are fewer.
        generator: of every draw, on the CPU; None for torch's own.
    """

    def __init__(self, k: int, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.k, self.generator, self.share = k, generator, SHARE

    def forward(
        self, attention: Float[Tensor, " n"], valid: Bool[Tensor, " n"] | None = None
    ) -> Float[Tensor, "k n"]:
        """Select; each row is one-hot.

        Args:
            attention: the higher the better, 0 to 1.
            valid: False where an instance must not be selected; None where all may.

        Raises:
            ValueError: a score is not a number.
        """
        scores, most = masked(attention.detach(), valid)
        k = self.k
        if self.training:
            k = max(k, math.ceil(self.share * most))
            first = torch.rand(len(scores), generator=self.generator) < AT_RANDOM
            scores = scores + first.to(scores)
        return mean_one_hots(top_indices(scores[None], min(k, most)), scores)

    def set_progress(self, fraction: float) -> None:
        """Say how much of the training is over, 0 to 1."""
        start, end = FALLS
        left = min(1.0, max(0.0, (end - fraction) / (end - start)))
        self.share = SHARE * left**2


def hindsight_loss(
    zoom_attention: Sequence[Float[Tensor, " _"]],
    selected: Sequence[Int64[Tensor, " _"]],
    attention: Sequence[Float[Tensor, " _"]],
) -> Float[Tensor, ""]:
    """Compare where a model aimed with where its attention then fell.

    For each zoom, the attention at all sharper magnifications is added up by the selected patch
    it fell into; the loss is the Kullback-Leibler divergence of the aim among those patches.
    Patches that were not selected are not judged. Only the zoom_attention get a gradient.

    Args:
        zoom_attention: scores of a look's patches, of which the highest were selected; a look each but the
            last, lowest magnification first.
        selected: their positions; the next look's patches are their children, in this order.
        attention: of a look's patches, each look's sums to 1; one more than `zoom_attention`.
    """
    loss = torch.zeros((), device=attention[-1].device)
    below = torch.zeros_like(attention[-1])  # what fell further down, by patch of the look below
    for aim, where, attended in reversed(
        list(zip(zoom_attention, selected, attention[1:], strict=True))
    ):
        chosen = where.to(aim.device)
        fell = (attended.detach() + below).view(len(chosen), -1).sum(dim=1)  # k
        target = fell / fell.sum()
        aimed = aim[chosen].log_softmax(dim=0)
        loss = loss + nn.functional.kl_div(aimed, target, reduction="sum")
        below = torch.zeros_like(aim).index_copy(0, chosen, target)
    return loss
