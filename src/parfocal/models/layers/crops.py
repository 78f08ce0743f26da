"""Squares of slides, told as a fraction of the slide, and read with a margin around them.

A square is (s, x, y), half its side and its center, where the slide, padded to a square around
its middle, reaches from -1 to 1.
"""

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from parfocal.bag import PixelSource, Places
from parfocal.models.layers.magnify import points_of, without_gray

MARGIN = 1 / 16  # of a square's side, on each side of it: for what reaches a little over its edge


def boxes_of(size: tuple[int, int], squares: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 4"]:
    """Give x, y, width and height of squares, in level-0 pixels of a slide of that size."""
    half = max(size) / 2
    middle = squares.new_tensor([size[0] / 2, size[1] / 2], dtype=torch.float64)
    reach = half * squares[..., :1].double()
    corner = middle + half * squares[..., 1:].double() - reach
    return torch.cat([corner, 2 * reach, 2 * reach], dim=-1)


def places_of(
    source: PixelSource,
    squares: Float[Tensor, "n 3"],
    *,
    side: int,
    parents: Int64[Tensor, " n"] | None = None,
) -> Places:
    """Tell where squares of a slide lie that were looked at as pictures of `side` pixels."""
    boxes = boxes_of(source.size, squares.detach().cpu())
    return Places(boxes.float(), (boxes[:, 2] * source.mpp / side).float(), parents)


@dataclass(frozen=True)
class Crops:
    """Squares that are being read.

    Args:
        sources: one a slide.
        squares: of each.
        side: pixels of a square, without its margin.
        asked: their pixels, a future for each slide.
    """

    sources: Sequence[PixelSource]
    squares: Float[Tensor, "b n 3"]
    side: int
    asked: Sequence[Future[UInt8[Tensor, "n 3 h h"]]]

    @classmethod
    def request(
        cls,
        sources: Sequence[PixelSource],
        squares: Float[Tensor, "b n 3"],
        *,
        side: int,
        step: int,
    ) -> "Crops":
        """Begin to read squares with their margins, and return at once."""
        squares = squares.detach()
        read = (side + 2 * _margin_px(side),) * 2
        asked = [
            source.request(boxes_of(source.size, each).float(), read, step=step)
            for source, each in zip(sources, _widened(squares, side), strict=True)
        ]
        return cls(sources, squares, side, asked)

    def images(self, gray_spread: int) -> Float[Tensor, "b n 3 h h"]:
        """Wait for the pixels, and give them in 0 to 1, black where gray or beyond the scan."""
        pixels = torch.stack([asked.result() for asked in self.asked]).to(self.squares.device)
        colored = without_gray(pixels.flatten(0, 1), gray_spread).view(pixels.shape)
        return colored * self._on_scan()[:, :, None]

    def pictures(self, images: Float[Tensor, "b n 3 h h"], side: int) -> Float[Tensor, "b n 3 s s"]:
        """Shrink images to pictures of the squares without their margins."""
        margin = _margin_px(self.side)
        inner = images[..., margin:-margin, margin:-margin].flatten(0, 1)
        shrunk = torch.nn.functional.interpolate(inner, (side, side), mode="area")
        return shrunk.view(*images.shape[:3], side, side)

    def grid(self, squares: Float[Tensor, "b n p 3"], side: int) -> Float[Tensor, "b n p i j 2"]:
        """Give the points of squares inside these, in the coordinates of the images."""
        around = _widened(self.squares, self.side)[:, :, None, None, None]
        return (points_of(squares, side) - around[..., 1:]) / around[..., :1]

    def _on_scan(self) -> Bool[Tensor, "b n h h"]:
        """Tell which pixels of the images touch the scan."""
        widened, pixels = _widened(self.squares, self.side), self.side + 2 * _margin_px(self.side)
        half = 0.99 * widened[..., :1, None, None] / pixels  # of a pixel, but for rounding
        sizes = widened.new_tensor([source.size for source in self.sources])  # b 2
        edge = (sizes / sizes.amax(dim=1, keepdim=True))[:, None, None, None]
        return (points_of(widened, pixels).abs() < edge + half).all(dim=-1)


def _margin_px(side: int) -> int:
    return round(MARGIN * side)


def _widened(squares: Float[Tensor, "b n 3"], side: int) -> Float[Tensor, "b n 3"]:
    """Add to squares the margin they are read with."""
    scale = 1 + 2 * _margin_px(side) / side
    return torch.cat([squares[..., :1] * scale, squares[..., 1:]], dim=-1)
