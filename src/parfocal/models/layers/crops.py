"""Crops: squares of several slides, read as pixels with a margin, without gray."""

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from parfocal.bag import PixelSource
from parfocal.models.layers.squares import grid_points, level0_boxes

MARGIN = 1 / 16  # share of the side that is read beyond each edge, for interpolation near the edge


def without_gray(images: UInt8[Tensor, "n 3 h w"], spread: int) -> Float[Tensor, "n 3 h w"]:
    """Return images in 0..1 in which gray pixels are black.

    Args:
        images: images in 0..255.
        spread: range (maximum minus minimum) of red, green and blue below which a pixel is gray;
            0 to keep all pixels.
    """
    colored = images.amax(dim=1, keepdim=True) - images.amin(dim=1, keepdim=True) >= spread
    return images * colored / 255


@dataclass(frozen=True)
class Crops:
    """Squares of several slides whose pixels are being read in the background.

    Args:
        sources: pixels of the slides.
        squares: squares to read of each slide, in the coordinates of the slide.
        side_px: side of each square in pixels, without its margin.
        pending: pixels of the squares, one future per slide.
    """

    sources: Sequence[PixelSource]
    squares: Float[Tensor, "b n 3"]
    side_px: int
    pending: Sequence[Future[UInt8[Tensor, "n 3 h h"]]]

    @classmethod
    def request(
        cls,
        sources: Sequence[PixelSource],
        squares: Float[Tensor, "b n 3"],
        *,
        side_px: int,
        step: int,
    ) -> "Crops":
        """Start to read squares with their margins, and return without waiting.

        Args:
            sources: pixels of the slides.
            squares: squares to read of each slide, in the coordinates of the slide.
            side_px: side of each square in pixels, without its margin.
            step: number of the zoom step that the cost is counted under, starting with 0.
        """
        squares = squares.detach()
        size = (side_px + 2 * _margin_px(side_px),) * 2
        pending = [
            source.request(level0_boxes(source.size, widened).float(), size, step=step)
            for source, widened in zip(sources, _with_margin(squares, side_px), strict=True)
        ]
        return cls(sources, squares, side_px, pending)

    @property
    def width_px(self) -> int:
        """Side of the squares in pixels, with their margins."""
        return self.side_px + 2 * _margin_px(self.side_px)

    def images(self, gray_spread: int) -> Float[Tensor, "b n 3 h h"]:
        """Wait for the pixels and return the squares with their margins, in 0..1.

        Gray pixels and pixels outside the scan are black.

        Args:
            gray_spread: see `without_gray`.
        """
        return torch.stack([self.slide_images(at, gray_spread) for at in range(len(self.pending))])

    def slide_images(self, slide: int, gray_spread: int) -> Float[Tensor, "n 3 h h"]:
        """Return the squares of one slide; see `images`.

        Args:
            slide: position of the slide.
            gray_spread: see `without_gray`.
        """
        pixels = self.pending[slide].result().to(self.squares.device)
        return without_gray(pixels, gray_spread) * self._inside_scan(slide)[:, None]

    def downscaled(
        self, images: Float[Tensor, "b n 3 h h"], side_px: int
    ) -> Float[Tensor, "b n 3 s s"]:
        """Remove the margin of images and downscale them to `side_px` pixels by area averaging."""
        margin = _margin_px(self.side_px)
        inner = images[..., margin:-margin, margin:-margin].flatten(0, 1)
        shrunk = torch.nn.functional.interpolate(inner, (side_px, side_px), mode="area")
        return shrunk.view(*images.shape[:3], side_px, side_px)

    def sampling_grid(
        self, squares: Float[Tensor, "b n p 3"], side_px: int
    ) -> Float[Tensor, "b n p i j 2"]:
        """Return the points at which to sample the images to obtain squares inside the crops.

        Args:
            squares: p squares inside each crop, in the coordinates of the slide.
            side_px: side of the sampled squares in pixels.

        Returns:
            Points (x, y), where -1 and 1 are the edges of an image with its margin.
        """
        around = _with_margin(self.squares, self.side_px)[:, :, None, None, None]
        return (grid_points(squares, side_px) - around[..., 1:]) / around[..., :1]

    def _inside_scan(self, slide: int) -> Bool[Tensor, "n h h"]:
        """Return whether each pixel of a slide's images overlaps the scan."""
        widened = _with_margin(self.squares[slide], self.side_px)
        half = 0.99 * widened[..., :1, None] / self.width_px  # of a pixel; 0.99 absorbs rounding
        size = widened.new_tensor(self.sources[slide].size)
        edge = size / size.amax()
        points = grid_points(widened, self.width_px)
        return (points.abs() < edge + half[..., None]).all(dim=-1)


def _margin_px(side_px: int) -> int:
    return round(MARGIN * side_px)


def _with_margin(squares: Float[Tensor, "*n 3"], side_px: int) -> Float[Tensor, "*n 3"]:
    """Widen squares by the margin that is read around them."""
    scale = 1 + 2 * _margin_px(side_px) / side_px
    return torch.cat([squares[..., :1] * scale, squares[..., 1:]], dim=-1)
