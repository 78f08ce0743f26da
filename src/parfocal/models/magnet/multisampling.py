"""Linearized multi-sampling: sample an image with a gradient that does not vanish when zoomed in.

Source: Jiang et al., "Linearized Multi-Sampling for Differentiable Image Transformation",
    ICCV 2019. A plane is fitted to the image around each point; its slope is the gradient.
Departs: all points are sampled at once, without copies of the image; all images of a batch share
    the offsets; the fit is centered and has a ridge, so that it is finite for collinear points;
    coordinates are those of `align_corners=False`, where -1 and 1 are the outer edges of the
    image. The authors' output adds the value of the plane at the center, which makes it noisy, in
    training and after; here that is `fixed_bias=False`, and only in training.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own short name)
from jaxtyping import Float
from torch import Tensor, nn

OUTPUT_SPREAD = 0.5  # standard deviation of the offsets, in output pixels of the whole image
INPUT_SPREAD = 2.0  # standard deviation that is added to it, in pixels of the image
RIDGE = 1e-6  # share of the offsets' variance, for a finite slope of collinear points


def bilinear(
    image: Float[Tensor, "b c h w"], grid: Float[Tensor, "b v i j 2"]
) -> Float[Tensor, "b v c i j"]:
    """Sample views of each image by bilinear interpolation.

    Args:
        image: images to sample.
        grid: points (x, y) of each view, where -1 and 1 are the edges of the image. Outside the
            edges the image is black.
    """
    sampled = F.grid_sample(image, grid.flatten(1, 2), align_corners=False)  # b c vi j
    return sampled.view(*sampled.shape[:2], *grid.shape[1:4]).transpose(1, 2)


class LinearizedSampler(nn.Module):
    """Sample an image at points, with the local slope of the image as the gradient of the points.

    Auxiliary points are sampled around each point x0: x0 + N(0, 1) (0.5 / output side + 2 / image
    side). Their distance does not depend on the distance between the points, so neither does the
    gradient. With dX the offsets and dI the differences of their bilinear values from I(x0), beta
    is the slope of the least-squares plane through (dX, dI). The output is
    I(x0) + beta · (x0 - stop(x0)); the gradient of the image passes through I(x0) alone.

    Args:
        points: number of points per plane, including the center.
        fixed_bias: whether the output is exactly I(x0) in training. If False, the value of the
            plane at x0 is added in training, as in the authors' code, which makes the output a
            noisy, smoothed image.
        generator: random number generator on the CPU; None for the global one.

    Raises:
        ValueError: `points` is too small to fit a plane.
    """

    def __init__(
        self,
        points: int = 8,
        *,
        fixed_bias: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if points < 4:
            raise ValueError(
                f"points={points}: a plane is fitted to 3 points besides the center; set at least "
                "4."
            )
        self.points = points
        self.fixed_bias = fixed_bias
        self.generator = generator

    def forward(
        self,
        image: Float[Tensor, "b c h w"],
        grid: Float[Tensor, "b v i j 2"],
        offsets: Float[Tensor, "k i j 2"] | None = None,
    ) -> Float[Tensor, "b v c i j"]:
        """Sample views of each image; see `bilinear` for the first two arguments.

        Args:
            image: images to sample.
            grid: points of each view.
            offsets: auxiliary points, if they were drawn before by `draw_offsets`, to sample the
                images of a batch one after the other; None to draw them here.
        """
        noisy = self.training and not self.fixed_bias
        if not self.needs_offsets(grid):
            return bilinear(image, grid)
        if offsets is None:
            offsets = self.draw_offsets((image.shape[2], image.shape[3]), grid)
        with_center = torch.cat([torch.zeros_like(offsets[:1]), offsets])
        points = grid.detach()[:, :, None] + with_center  # b v 1+k i j 2
        values = bilinear(image, points.flatten(1, 2))  # b v(1+k) c i j
        values = values.reshape(*points.shape[:3], *values.shape[2:])
        center, differences = values[:, :, 0], values[:, :, 1:].detach()
        differences = differences - center.detach()[:, :, None]  # b v k c i j
        slopes = _fit_slopes(offsets, differences)
        if noisy:
            plane = sum(
                mean * slope for mean, slope in zip(offsets.mean(0).unbind(-1), slopes, strict=True)
            )
            center = center + differences.mean(dim=2) - plane
        sampled: Tensor = _WithSlopes.apply(center, grid, *slopes)  # type: ignore[no-untyped-call]
        return sampled

    def needs_offsets(self, grid: Float[Tensor, "b v i j 2"]) -> bool:
        """Return whether auxiliary points are sampled: for the gradient, or for the noise."""
        return grid.requires_grad or (self.training and not self.fixed_bias)

    def draw_offsets(
        self, size: tuple[int, int], grid: Float[Tensor, "b v i j 2"]
    ) -> Float[Tensor, "k i j 2"]:
        """Draw offsets in the coordinates of the images, shared by all images of the batch.

        Args:
            size: height and width of the images in pixels.
            grid: points of each view.
        """
        height, width = grid.shape[2:4]
        seed = int(torch.randint(2**63 - 1, (), generator=self.generator))
        generator = torch.Generator(grid.device).manual_seed(seed)
        normal = grid.new_empty(self.points - 1, height, width, 2).normal_(generator=generator)
        # The sum of two normal variables is normal, and their variances add up.
        spread = [
            math.hypot(OUTPUT_SPREAD / output_side, INPUT_SPREAD / image_side)
            for output_side, image_side in ((width, size[1]), (height, size[0]))
        ]
        return normal.mul_(normal.new_tensor(spread))


def _fit_slopes(
    offsets: Float[Tensor, "k i j 2"], differences: Float[Tensor, "b v k c i j"]
) -> tuple[Float[Tensor, "b v c i j"], Float[Tensor, "b v c i j"]]:
    """Fit the plane difference = slope · offset + bias at each point; return its slopes in x and y.

    By the normal equations the slope is cov(offset)^-1 cov(offset, difference).
    """
    x, y = (offsets - offsets.mean(dim=0)).unbind(-1)  # k i j
    xx, yy, xy = (x * x).sum(0), (y * y).sum(0), (x * y).sum(0)  # i j
    ridge = RIDGE * (xx + yy)
    xx, yy = xx + ridge, yy + ridge
    determinant = xx * yy - xy * xy
    weights = ((yy * x - xy * y) / determinant, (xx * y - xy * x) / determinant)
    return _weighted_sum(differences, weights[0]), _weighted_sum(differences, weights[1])


def _weighted_sum(
    differences: Float[Tensor, "b v k c i j"], weights: Float[Tensor, "k i j"]
) -> Float[Tensor, "b v c i j"]:
    """Sum over k term by term, without a tensor of all products, which would be large."""
    total = torch.zeros_like(differences[:, :, 0])
    for difference, weight in zip(differences.unbind(2), weights, strict=True):
        total.addcmul_(difference, weight)
    return total


class _WithSlopes(torch.autograd.Function):
    """Return values unchanged, with the given slopes as the gradient of the grid."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, grid: Tensor, slope_x: Tensor, slope_y: Tensor) -> Tensor:
        ctx.save_for_backward(slope_x, slope_y)
        return values.clone()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor, None, None]:
        moved = [(upstream * slope).sum(dim=2) for slope in ctx.saved_tensors]  # b v i j
        return upstream, torch.stack(moved, dim=-1), None, None
