"""Hindsight: where to zoom, learnt from what was found there.

Source: ours. The published way to learn it, noise on the scores of the top-K, tells a choice by how
    the loss changes, which a few dozen slides with small lesions drown in chance. Sharp patches
    need no such luck: attention among them is learnt as in any attention model, and says in
    hindsight which of the patches zoomed into were worth it.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

# Up to the first part of the training everything is zoomed into, from the second on `k` alone.
FALLS = (0.2, 0.6)


def share_zoomed(progress: float) -> float:
    """Give the share of the patches to zoom into, after so much of the training, 0 to 1."""
    start, end = FALLS
    return min(1.0, max(0.0, (end - progress) / (end - start))) ** 2


def hindsight_loss(
    aims: Sequence[Float[Tensor, " _"]],
    selected: Sequence[Int64[Tensor, " _"]],
    attention: Sequence[Float[Tensor, " _"]],
) -> Float[Tensor, ""]:
    """Compare where a model aimed with where its attention then fell.

    For each zoom, the attention at all sharper magnifications is added up by the selected patch
    it fell into; the loss is the Kullback-Leibler divergence of the aim among those patches.
    Patches that were not selected are not judged. Only the aims get a gradient.

    Args:
        aims: scores of a look's patches, of which the highest were selected; a look each but the
            last, lowest magnification first.
        selected: their positions; the next look's patches are their children, in this order.
        attention: of a look's patches, each look's sums to 1; one more than `aims`.
    """
    loss = torch.zeros((), device=attention[-1].device)
    below = torch.zeros_like(attention[-1])  # what fell further down, by patch of the look below
    for aim, where, attended in reversed(list(zip(aims, selected, attention[1:], strict=True))):
        chosen = where.to(aim.device)
        fell = (attended.detach() + below).view(len(chosen), -1).sum(dim=1)  # k
        target = fell / fell.sum()
        aimed = aim[chosen].log_softmax(dim=0)
        loss = loss + torch.nn.functional.kl_div(aimed, target, reduction="sum")
        below = torch.zeros_like(aim).index_copy(0, chosen, target)
    return loss
