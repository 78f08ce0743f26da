"""Magnifying: where in a picture to look closer, as squares a gradient passes through.

Source: Dimitriou & Arandjelović, "Magnifying Networks for Images with Billions of Pixels",
    arXiv 2112.06121, with the sparsemax of Martins & Astudillo in place of a softmax.
Departs: the paper's appendix is not public, so widths, kernels and norms, and how a square is
    derived from a map, are ours; docs/methods.md lists each.
"""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from parfocal.models.layers.sparsemax import sparsemax

KERNELS, WIDTH = (1, 3, 5, 7), 8  # as in an Inception block, side by side
MIN_SCALE, MAX_SCALE = 0.05, 1.0
SCALINGS = ("moments", "score")

# A square: its half-side and its center (x, y), in the coordinates of the one around it.
WHOLE = (1.0, 0.0, 0.0)


def without_gray(images: UInt8[Tensor, "n 3 h w"], spread: int) -> Float[Tensor, "n 3 h w"]:
    """Give images in 0 to 1, black where red, green and blue lie within less than `spread`."""
    colored = images.amax(dim=1, keepdim=True) - images.amin(dim=1, keepdim=True) >= spread
    return images * colored / 255


def within(
    parents: Float[Tensor, "*#n 3"], squares: Float[Tensor, "*#n 3"]
) -> Float[Tensor, "*n 3"]:
    """Give squares told within their parents in the coordinates the parents are told in."""
    scale, shift = squares[..., :1], squares[..., 1:]
    across = parents[..., :1]
    return torch.cat([across * scale, parents[..., 1:] + across * shift], dim=-1)


def points_of(squares: Float[Tensor, "*n 3"], side: int) -> Float[Tensor, "*n i j 2"]:
    """Give the centers (x, y) of the cells of squares cut into `side` rows and columns."""
    y, x = torch.meshgrid(*[cell_centers(side, squares)] * 2, indexing="ij")
    return squares[..., None, None, 1:] + squares[..., None, None, :1] * torch.stack([x, y], dim=-1)


def cell_centers(side: int, like: Tensor) -> Float[Tensor, " n"]:
    """Give the centers of `side` cells between -1 and 1."""
    return (torch.arange(side, device=like.device, dtype=like.dtype) + 0.5) * (2 / side) - 1


class MixedConv(nn.Module):
    """Convolutions of several kernels side by side, for many stacks at once.

    Args:
        stacks: how many; each has weights of its own.
        in_dim: channels of each.
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
        """Convolve; the channels of a stack stay together."""
        answers = [conv(x).view(len(x), self.stacks, WIDTH, *x.shape[2:]) for conv in self.convs]
        normed: Tensor = self.norm(torch.cat(answers, dim=2).flatten(1, 2))
        return normed.relu_()


class MagnifyingLayer(nn.Module):
    """Choose squares to look closer at in each of several pictures of a slide.

    Each picture has `slots` squares, and each of these a stack of convolutions of its own, which
    gives a map z of logits; p = sparsemax(temperature / cells z) over its cells. With c the cells'
    centers in -1..1, m their mean under p and v their variance along each axis, the square's center
    is t = tanh(m), and its half-side

        moments   s = sqrt(3/2 (v_x + v_y))     1 where p is even, as then v = 1/3; 0 at one cell
        score     s = sum of p z

    clamped to 0.05..1. Sparsemax keeps but a few cells of 3136 unless their logits are all but
    equal, and one cell has no gradient: `temperature` keeps logits of order 1 close enough.

    Args:
        pictures: how many a slide has at this layer.
        slots: squares chosen in each.
        frozen: whether the first slot of each always is the whole picture; it has no stack.
        scaling: "moments" or "score".
        temperature: what logits are multiplied by, in shares of a cell where p is even.

    Raises:
        ValueError: `scaling` is another, or nothing is left to be chosen.
    """

    def __init__(
        self,
        pictures: int,
        slots: int,
        *,
        frozen: bool = False,
        scaling: str = "moments",
        temperature: float = 10.0,
    ) -> None:
        super().__init__()
        if scaling not in SCALINGS:
            raise ValueError(f"scaling={scaling!r} is unknown; it is one of {SCALINGS}.")
        if slots - frozen < 1:
            raise ValueError(
                f"slots={slots}: a layer chooses at least one square besides a frozen one."
            )
        self.pictures, self.frozen, self.scaling = pictures, frozen, scaling
        self.temperature = temperature
        self.moving = slots - frozen
        self.stacks = pictures * self.moving
        wide = len(KERNELS) * WIDTH
        self.mix = nn.Sequential(MixedConv(self.stacks, 3), MixedConv(self.stacks, wide))
        # Under sparsemax a bias would change nothing; a score starts at 1, the whole picture.
        self.score = nn.Conv2d(
            self.stacks * wide,
            self.stacks,
            3,
            padding=1,
            groups=self.stacks,
            bias=scaling == "score",
        )
        if self.score.bias is not None:
            nn.init.ones_(self.score.bias)

    def forward(self, pictures: Float[Tensor, "b n 3 h w"]) -> Float[Tensor, "b n p 3"]:
        """Give squares (s, t_x, t_y), each within its picture."""
        z = self.logits(pictures)  # b n p h w
        squares = squares_of(self.attention(z), z if self.scaling == "score" else None)
        if not self.frozen:
            return squares
        whole = squares.new_tensor(WHOLE).expand_as(squares[:, :, :1])
        return torch.cat([whole, squares], dim=2)

    def logits(self, pictures: Float[Tensor, "b n 3 h w"]) -> Float[Tensor, "b n p h w"]:
        """Give the maps of the moving slots, before temperature and sparsemax."""
        copies = pictures.repeat_interleave(self.moving, dim=1)  # b s 3 h w
        # Under autocast z has too few digits to be summed over all cells.
        z: Tensor = self.score(self.mix(copies.flatten(1, 2))).to(pictures.dtype)  # b s h w
        return z.view(-1, self.pictures, self.moving, *z.shape[2:])

    def attention(self, z: Float[Tensor, "b n p h w"]) -> Float[Tensor, "b n p h w"]:
        """Give p of each map."""
        cells = z.shape[-2] * z.shape[-1]
        return sparsemax((self.temperature / cells * z).flatten(-2)).view_as(z)


def squares_of(
    p: Float[Tensor, "*n h w"], z: Float[Tensor, "*n h w"] | None = None
) -> Float[Tensor, "*n 3"]:
    """Derive squares (s, t_x, t_y) from maps that sum to 1; see `MagnifyingLayer`.

    Args:
        p: the maps.
        z: their scores, for s = sum of p z; None for s from the moments of p.
    """
    x, y = cell_centers(p.shape[-1], p), cell_centers(p.shape[-2], p)
    across, down = p.sum(dim=-2), p.sum(dim=-1)
    mean = torch.stack([across @ x, down @ y], dim=-1)
    if z is None:
        variance = across @ x**2 + down @ y**2 - mean.square().sum(dim=-1)
        # Clamped before the root, whose slope at 0 is infinite.
        scale = (1.5 * variance).clamp(MIN_SCALE**2, MAX_SCALE**2).sqrt()
    else:
        scale = (p * z).sum(dim=(-2, -1)).clamp(MIN_SCALE, MAX_SCALE)
    return torch.cat([scale[..., None], mean.tanh()], dim=-1)
