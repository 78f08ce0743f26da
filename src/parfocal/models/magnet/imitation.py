"""Exploring squares in training, and choosing as those did that were worth it.

Source: ours. A square is taught by the slopes of what is sampled in it, and these tell neither what
    lies elsewhere nor what would show if it were sharper: where a lesion cannot be seen in a
    picture of the whole slide, there is nothing to follow. So in training some squares are
    drawn at random. What was worth reading is told by attention among the leaves, and a layer
    learns to choose the squares that it fell into.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from parfocal.models.layers.attention import GatedAttention
from parfocal.models.layers.magnify import MIN_SCALE

AT_RANDOM, ENDS = (
    0.8,
    0.8,
)  # chance of a square at first; the share of the training at which it is 0
FARTHEST = math.tanh(1.0)  # from the middle of a picture; a layer cannot choose what is beyond


class Explorer(nn.Module):
    """Draws squares in training, and judges leaves; after it there is no use for it.

    Args:
        dim: features of a leaf.
        num_classes: slide labels.
        smallest: of the squares drawn, as a share of the picture around them.
        generator: of every draw, on the CPU; None for torch's own.

    Raises:
        ValueError: `smallest` is none that a layer could choose.
    """

    def __init__(
        self,
        dim: int,
        num_classes: int,
        *,
        smallest: float,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if not MIN_SCALE <= smallest < 1:
            raise ValueError(
                f"hindsight={smallest:g}: a layer chooses squares of {MIN_SCALE:g} to 1 of a "
                "picture; give the smallest to draw in training, as 0.3, or 0 for no hindsight."
            )
        self.smallest = smallest
        self.attend = GatedAttention(dim, 64, dropout=0.0)
        self.classify = nn.Linear(dim, num_classes)
        self.chance, self.generator = AT_RANDOM, generator

    def set_progress(self, fraction: float) -> None:
        """Say how much of the training is over, 0 to 1."""
        self.chance = AT_RANDOM * max(0.0, 1 - fraction / ENDS)

    def explored(
        self, chosen: Float[Tensor, "b n p 3"], *, frozen: bool
    ) -> Float[Tensor, "b n p 3"]:
        """Draw some squares, wherever a layer could have chosen them; there is no gradient there.

        Their sizes are even on a logarithmic scale, their places within the picture.

        Args:
            chosen: squares, each within its picture.
            frozen: whether the first of each picture has to stay.
        """
        drawn = torch.rand(4, *chosen.shape[:-1], generator=self.generator).to(chosen)  # 4 b n p
        moved = drawn[0] < self.chance
        if frozen:
            moved[..., 0] = False
        scale = (math.log(self.smallest) * drawn[1, ..., None]).exp()
        places = (2 * drawn[2:].movedim(0, -1) - 1) * (1 - scale)
        squares = torch.cat([scale, places.clamp(-FARTHEST, FARTHEST)], dim=-1)
        return torch.where(moved[..., None], squares, chosen)

    def judge(
        self, features: Float[Tensor, "b n d"]
    ) -> tuple[Float[Tensor, "b n"], Float[Tensor, "b c"]]:
        """Give the attention of leaves, and logits of what it falls on."""
        attention = self.attend(features.flatten(0, 1)).view(features.shape[:2]).softmax(dim=1)
        return attention, self.classify((attention[..., None] * features).sum(dim=1))


def imitation_loss(
    chosen: Sequence[Float[Tensor, "b _ _ 3"]],
    taken: Sequence[Float[Tensor, "b _ _ 3"]],
    attention: Float[Tensor, "b n"],
) -> Float[Tensor, " b"]:
    """Tell how far squares are from those taken in their place, weighted by what these led to.

    The weight of a square is the attention of all leaves inside it, so each layer's sum to 1. Of
    two squares (s, x, y) and (s', x', y') it adds (x - x')² + (y - y')² + (ln s - ln s')². Only
    `chosen` gets a gradient; a square that was taken as it was chosen teaches nothing.

    Args:
        chosen: of each layer, by picture.
        taken: likewise.
        attention: of the leaves.
    """
    loss = torch.zeros(len(attention), device=attention.device)
    for aim, found in zip(chosen, taken, strict=True):
        apart = (aim[..., 1:] - found[..., 1:].detach()).square().sum(dim=-1)
        larger = (aim[..., 0] / found[..., 0].detach()).log().square()
        worth = attention.detach().view(*aim.shape[:3], -1).sum(dim=-1)  # b n p
        loss = loss + (worth * (apart + larger)).sum(dim=(1, 2))
    return loss
