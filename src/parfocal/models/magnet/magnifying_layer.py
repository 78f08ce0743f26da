"""The magnifying layer: choose squares of a picture to zoom into, with gradients.

Source: Dimitriou & Arandjelović, "Magnifying Networks for Images with Billions of Pixels",
    arXiv 2112.06121, with the sparsemax of Martins & Astudillo in place of softmax.
Departs: the paper's appendix is not public, so the widths, kernels and norms, and the equations
    of a square are ours; docs/methods.md lists them.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from parfocal.models.choice import require_choice
from parfocal.models.layers.squares import WHOLE, pixel_centers
from parfocal.models.magnet.sparsemax import sparsemax

KERNELS, WIDTH = (1, 3, 5, 7), 8  # parallel convolutions as in an Inception block; channels of each
MIN_SCALE, MAX_SCALE = 0.05, 1.0
SCALE_ESTIMATORS = ("moments", "score")


class MixedConv(nn.Module):
    """Apply parallel convolutions of several kernel sizes, separately for each stack.

    Args:
        stacks: number of stacks, each with weights of its own.
        in_dim: input channels per stack.
    """

    def __init__(self, stacks: int, in_dim: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(
                stacks * in_dim, stacks * WIDTH, kernel, padding="same", bias=False, groups=stacks
            )
            for kernel in KERNELS
        )
        self.norm = nn.BatchNorm2d(stacks * len(KERNELS) * WIDTH)
        self.stacks = stacks

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        """Return the features of all stacks; the channels of a stack are adjacent."""
        outputs = [conv(x).view(len(x), self.stacks, WIDTH, *x.shape[2:]) for conv in self.convs]
        normed: Tensor = self.norm(torch.cat(outputs, dim=2).flatten(1, 2))
        return normed.relu_()


class MagnifyingLayer(nn.Module):
    """Choose squares to zoom into, in each of several pictures of a slide.

    In each picture, `slots` squares are chosen. Each slot has a stack of convolutions of its own
    that computes a map z of logits, and p = sparsemax(logit_scale / cells z) over its cells. With c
    the centers of the cells in -1..1, m their mean under p and v their variance along each axis,
    the center of the square is t = tanh(m), and its half side is

        moments   s = sqrt(3/2 (v_x + v_y))     1 for uniform p, where v = 1/3; 0 for a single cell
        score     s = sum of p z

    clamped to 0.05..1. Unless the logits are almost equal, sparsemax is nonzero in only a few of
    3136 cells, and a single cell has no gradient. With `logit_scale`, logits of order 1 are close
    enough to each other.

    Args:
        pictures: number of pictures per slide at this layer.
        slots: number of squares to choose in each picture.
        frozen_patch: whether the first square of each picture is always the whole picture; its
            slot has no weights.
        scale_estimator: how the half side is computed, "moments" or "score".
        logit_scale: factor of the logits before sparsemax, in units of the probability of a cell
            under uniform p.

    Raises:
        ValueError: `scale_estimator` is unknown, or no slot is left to choose.
    """

    def __init__(
        self,
        pictures: int,
        slots: int,
        *,
        frozen_patch: bool = False,
        scale_estimator: str = "moments",
        logit_scale: float = 10.0,
    ) -> None:
        super().__init__()
        require_choice("scale_estimator", scale_estimator, SCALE_ESTIMATORS)
        if slots - frozen_patch < 1:
            raise ValueError(
                f"slots={slots}: a layer needs at least one square besides the frozen one."
            )
        self.pictures, self.frozen_patch = pictures, frozen_patch
        self.scale_estimator, self.logit_scale = scale_estimator, logit_scale
        self.learned_slots = slots - frozen_patch
        self.stacks = pictures * self.learned_slots
        features = len(KERNELS) * WIDTH
        self.mix = nn.Sequential(MixedConv(self.stacks, 3), MixedConv(self.stacks, features))
        # Sparsemax ignores a bias. The score starts at 1, which selects the whole picture.
        self.score = nn.Conv2d(
            self.stacks * features,
            self.stacks,
            3,
            padding=1,
            groups=self.stacks,
            bias=scale_estimator == "score",
        )
        if self.score.bias is not None:
            nn.init.ones_(self.score.bias)

    def forward(self, pictures: Float[Tensor, "b n 3 h w"]) -> Float[Tensor, "b n p 3"]:
        """Return squares (s, t_x, t_y) in the coordinates of their pictures."""
        z = self.logits(pictures)  # b n p h w
        scores = z if self.scale_estimator == "score" else None
        squares = squares_from_maps(self.attention(z), scores)
        if not self.frozen_patch:
            return squares
        whole = squares.new_tensor(WHOLE).expand_as(squares[:, :, :1])
        return torch.cat([whole, squares], dim=2)

    def logits(self, pictures: Float[Tensor, "b n 3 h w"]) -> Float[Tensor, "b n p h w"]:
        """Return the map z of each learned slot."""
        copies = pictures.repeat_interleave(self.learned_slots, dim=1)  # b s 3 h w
        # Under autocast, z would be too imprecise to be summed over all cells.
        z: Tensor = self.score(self.mix(copies.flatten(1, 2))).to(pictures.dtype)  # b s h w
        return z.view(-1, self.pictures, self.learned_slots, *z.shape[2:])

    def attention(self, z: Float[Tensor, "b n p h w"]) -> Float[Tensor, "b n p h w"]:
        """Return the map p of each map z."""
        cells = z.shape[-2] * z.shape[-1]
        return sparsemax((self.logit_scale / cells * z).flatten(-2)).view_as(z)


def squares_from_maps(
    p: Float[Tensor, "*n h w"], z: Float[Tensor, "*n h w"] | None = None
) -> Float[Tensor, "*n 3"]:
    """Compute squares (s, t_x, t_y) from attention maps; see `MagnifyingLayer`.

    Args:
        p: attention maps, each with a sum of 1.
        z: logits of the maps, for s = sum of p z; None for s from the moments of p.
    """
    x, y = pixel_centers(p.shape[-1], p), pixel_centers(p.shape[-2], p)
    columns, rows = p.sum(dim=-2), p.sum(dim=-1)
    mean = torch.stack([columns @ x, rows @ y], dim=-1)
    if z is None:
        variance = columns @ x**2 + rows @ y**2 - mean.square().sum(dim=-1)
        # Clamped before the square root, whose slope at 0 is infinite.
        scale = (1.5 * variance).clamp(MIN_SCALE**2, MAX_SCALE**2).sqrt()
    else:
        scale = (p * z).sum(dim=(-2, -1)).clamp(MIN_SCALE, MAX_SCALE)
    return torch.cat([scale[..., None], mean.tanh()], dim=-1)
