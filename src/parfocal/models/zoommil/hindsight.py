"""Hindsight: learn where to zoom from the attention at higher magnifications.

Source: ours. The published method adds noise to the scores of the top-K and estimates a gradient
    from how the loss changes with the selection. With a few dozen slides and small lesions, that
    estimate is too noisy to learn from. The attention at the higher magnifications, however, is
    trained by backpropagation as in any attention model. It shows in hindsight which of the
    selected patches were worth zooming into, and is the training target of the zoom attention.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from parfocal.models.layers.topk import mask_scores, mean_one_hots, top_indices


@dataclass(frozen=True)
class Exploration:
    """How many patches training selects, and how many of them at random.

    Args:
        random_share: probability, in training, that a patch is preferred regardless of its score.
        start_share: share of the patches to select at the start of training.
        fall_start: completed fraction of the training at which that share starts to fall.
        fall_end: completed fraction of the training from which on only K patches are selected.
        fall_power: power by which the share falls: 1 is linear, 2 quadratic.

    Raises:
        ValueError: an argument is invalid.
    """

    random_share: float = 0.2
    start_share: float = 0.3
    fall_start: float = 0.2
    fall_end: float = 0.6
    fall_power: float = 2.0

    def __post_init__(self) -> None:
        """Refuse shares outside 0..1, and a fall that ends before it starts."""
        for each in fields(self):
            value = getattr(self, each.name)
            if each.name != "fall_power" and not 0 <= value <= 1:
                raise ValueError(f"{each.name}={value}: a share is between 0 and 1.")
        if self.fall_start >= self.fall_end:
            raise ValueError(
                f"fall_start={self.fall_start}, fall_end={self.fall_end}: the share of selected "
                "patches has to start to fall before it ends to; set fall_start below fall_end."
            )
        if not self.fall_power > 0:
            raise ValueError(f"fall_power={self.fall_power}: a power is more than 0.")

    def share_at(self, fraction: float) -> float:
        """Return the share of the patches to select after a completed fraction of the training."""
        remaining = min(
            1.0, max(0.0, (self.fall_end - fraction) / (self.fall_end - self.fall_start))
        )
        share: float = self.start_share * remaining**self.fall_power
        return share


class ExploringTopK(nn.Module):
    """Select the K highest scores, as one-hot rows in the order of their positions.

    In training it selects more, so that the higher magnifications have enough patches to learn
    from: at first a share of `start_share`, which `set_progress` reduces until K are left. Each
    patch is also preferred with probability `random_share`: preferred patches rank above all
    others, so every patch can be selected. The selection has no gradient.

    Args:
        k: number of patches to select; all if there are fewer.
        exploration: how many patches training selects, and how many of them at random.
        generator: random generator on the CPU; None for PyTorch's default.

    Raises:
        ValueError: an argument is invalid.
    """

    def __init__(
        self,
        k: int,
        *,
        exploration: Exploration | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if k < 1:
            raise ValueError(f"k={k}: at least 1 patch has to be selected.")
        self.exploration = exploration or Exploration()
        self.k, self.generator = k, generator
        self.fraction = self.exploration.start_share

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
            preferred = (
                torch.rand(len(scores), generator=self.generator) < self.exploration.random_share
            )
            scores = scores + preferred.to(scores)
        return mean_one_hots(top_indices(scores[None], min(k, num_valid)), scores)

    def set_progress(self, fraction: float) -> None:
        """Set the completed fraction of the training, from 0 to 1."""
        self.fraction = self.exploration.share_at(fraction)


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
