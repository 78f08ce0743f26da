"""Squares of a slide in relative coordinates, and their conversion to level-0 pixels.

A square is a vector (s, x, y) of its half side and its center. In the coordinates of the slide,
-1 and 1 are the edges of the slide after it is padded to a square around its center. In the
coordinates of a parent square, -1 and 1 are the edges of the parent.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from parfocal.bag import PixelSource
from parfocal.prediction import Places

WHOLE = (1.0, 0.0, 0.0)  # the square that is equal to its parent, or to the padded slide


def from_parent(
    parents: Float[Tensor, "*#n 3"], squares: Float[Tensor, "*#n 3"]
) -> Float[Tensor, "*n 3"]:
    """Convert squares from the coordinates of their parents to those the parents are given in."""
    scale, shift = squares[..., :1], squares[..., 1:]
    parent_scale = parents[..., :1]
    return torch.cat([parent_scale * scale, parents[..., 1:] + parent_scale * shift], dim=-1)


def grid_points(squares: Float[Tensor, "*n 3"], side_px: int) -> Float[Tensor, "*n i j 2"]:
    """Return the centers (x, y) of the pixels of squares that are `side_px` pixels wide."""
    y, x = torch.meshgrid(*[pixel_centers(side_px, squares)] * 2, indexing="ij")
    return squares[..., None, None, 1:] + squares[..., None, None, :1] * torch.stack([x, y], dim=-1)


def pixel_centers(count: int, like: Tensor) -> Float[Tensor, " n"]:
    """Return the centers of `count` pixels between -1 and 1.

    Args:
        count: number of pixels.
        like: tensor whose device and dtype the result has.
    """
    return (torch.arange(count, device=like.device, dtype=like.dtype) + 0.5) * (2 / count) - 1


def level0_boxes(
    slide_size: tuple[int, int], squares: Float[Tensor, "*n 3"]
) -> Float[Tensor, "*n 4"]:
    """Convert squares to boxes (x, y, width, height) in level-0 pixels.

    Args:
        slide_size: width and height of the slide, in level-0 pixels.
        squares: squares in the coordinates of the slide.
    """
    half = max(slide_size) / 2
    middle = squares.new_tensor([slide_size[0] / 2, slide_size[1] / 2], dtype=torch.float64)
    half_sides = half * squares[..., :1].double()
    corner = middle + half * squares[..., 1:].double() - half_sides
    return torch.cat([corner, 2 * half_sides, 2 * half_sides], dim=-1)


def places_of(
    source: PixelSource,
    squares: Float[Tensor, "n 3"],
    *,
    side_px: int,
    parents: Int64[Tensor, " n"] | None = None,
) -> Places:
    """Return the positions and resolutions of squares that a model has seen.

    Args:
        source: pixels of the slide.
        squares: squares in the coordinates of the slide.
        side_px: side of each square as the model has seen it, in pixels.
        parents: position of each square's parent in the previous look; None if there is none.
    """
    boxes = level0_boxes(source.size, squares.detach().cpu())
    return Places(boxes.float(), (boxes[:, 2] * source.mpp / side_px).float(), parents)
