"""Hindsight for squares: explore random squares in training, and imitate those that paid off.

Source: ours. A square is trained by the gradient of the pixels sampled in it. That gradient does
    not show what lies elsewhere, nor what would be visible at a higher magnification, so there is
    nothing to learn from where a lesion is invisible in a thumbnail. Therefore some squares are
    random in training. Attention over the leaves measures which squares were worth reading, and
    each layer learns to choose the squares that received attention.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from parfocal.models.layers.attention import GatedAttention
from parfocal.models.magnet.magnifying_layer import MIN_SCALE

MAX_CENTER = math.tanh(1.0)  # largest coordinate of a center that a magnifying layer can choose


class Explorer(nn.Module):
    """Replace some squares by random ones in training, and classify by attention over the leaves.

    It is not used after training.

    Args:
        dim: number of features per leaf.
        num_classes: number of classes.
        min_scale: smallest half side of a random square, relative to its picture.
        random_share: share of squares that are random at the start of training.
        random_until: completed fraction of the training from which on no square is random.
        generator: random number generator on the CPU; None for the global one.

    Raises:
        ValueError: an argument is invalid, or a magnifying layer cannot choose squares of
            `min_scale`.
    """

    def __init__(
        self,
        dim: int,
        num_classes: int,
        *,
        min_scale: float,
        random_share: float = 0.8,
        random_until: float = 0.8,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if not MIN_SCALE <= min_scale < 1:
            raise ValueError(
                f"hindsight={min_scale:g}: set it to at least {MIN_SCALE:g} and below 1, the "
                "smallest random square relative to its picture (such as 0.3), or to 0 to train "
                "without hindsight."
            )
        if not 0 <= random_share <= 1:
            raise ValueError(f"random_share={random_share}: a share is between 0 and 1.")
        if not 0 < random_until <= 1:
            raise ValueError(
                f"random_until={random_until}: a fraction of the training is more than 0 and at "
                "most 1; random_share=0 draws no square at random."
            )
        self.min_scale = min_scale
        self.attention = GatedAttention(dim, 64, dropout=0.0)
        self.classifier = nn.Linear(dim, num_classes)
        self.start_share, self.random_until = random_share, random_until
        self.random_share, self.generator = random_share, generator

    def set_progress(self, fraction: float) -> None:
        """Set the completed fraction of the training, from 0 to 1."""
        self.random_share = self.start_share * max(0.0, 1 - fraction / self.random_until)

    def explore(
        self, chosen: Float[Tensor, "b n p 3"], *, frozen_patch: bool
    ) -> Float[Tensor, "b n p 3"]:
        """Replace some squares by random squares, which have no gradient.

        The logarithms of their half sides are uniform, and so are their centers within the
        picture.

        Args:
            chosen: squares in the coordinates of their pictures.
            frozen_patch: whether the first square of each picture is never replaced.
        """
        uniform = torch.rand(4, *chosen.shape[:-1], generator=self.generator).to(chosen)  # 4 b n p
        replaced = uniform[0] < self.random_share
        if frozen_patch:
            replaced[..., 0] = False
        scale = (math.log(self.min_scale) * uniform[1, ..., None]).exp()
        centers = (2 * uniform[2:].movedim(0, -1) - 1) * (1 - scale)
        squares = torch.cat([scale, centers.clamp(-MAX_CENTER, MAX_CENTER)], dim=-1)
        return torch.where(replaced[..., None], squares, chosen)

    def classify_leaves(
        self, features: Float[Tensor, "b n d"]
    ) -> tuple[Float[Tensor, "b n"], Float[Tensor, "b c"]]:
        """Return the attention over the leaves, and the logits of their weighted mean."""
        scores = self.attention(features.flatten(0, 1)).view(features.shape[:2])
        attention = scores.softmax(dim=1)
        return attention, self.classifier((attention[..., None] * features).sum(dim=1))


def imitation_loss(
    chosen: Sequence[Float[Tensor, "b _ _ 3"]],
    visited: Sequence[Float[Tensor, "b _ _ 3"]],
    attention: Float[Tensor, "b n"],
) -> Float[Tensor, " b"]:
    """Compute the distance between chosen and visited squares, weighted by attention.

    The weight of a square is the sum of the attention over all leaves inside it, so the weights of
    a layer sum to 1. Squares (s, x, y) and (s', x', y') have the squared distance (x - x')² +
    (y - y')² + (ln s - ln s')². Only `chosen` gets a gradient. A square that was visited as it was
    chosen contributes 0.

    Args:
        chosen: for each layer, the squares it chose, by picture.
        visited: for each layer, the squares that were visited in their place.
        attention: attention over the leaves.

    Returns:
        One loss per slide.
    """
    loss = torch.zeros(len(attention), device=attention.device)
    for choice, target in zip(chosen, visited, strict=True):
        shift = (choice[..., 1:] - target[..., 1:].detach()).square().sum(dim=-1)
        log_ratio = (choice[..., 0] / target[..., 0].detach()).log().square()
        weights = attention.detach().view(*choice.shape[:3], -1).sum(dim=-1)  # b n p
        loss = loss + (weights * (shift + log_ratio)).sum(dim=(1, 2))
    return loss
