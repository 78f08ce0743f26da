"""Linearized multi-sampling: sample an image, with a gradient that does not fade as it zooms.

Source: Jiang et al., "Linearized Multi-Sampling for Differentiable Image Transformation",
    ICCV 2019. A plane is fitted to the image around each point, and its slope is the gradient.
Departs: all points are sampled at once, without copies of the image; the offsets are the same for
    all images of a batch; the fit is centerd and ridged, so that it is finite where points lie in
    a line; coordinates are those of `align_corners=False`, -1 and 1 the outer edges of the image.
    The authors' output adds the plane's value at the center, which makes it noisy, in training
    and after; here that is `fixed_bias=False`, in training alone.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own short name)
from jaxtyping import Float
from torch import Tensor, nn

GRID_SPREAD = 0.5  # of the offsets, in pixels of the output at no zoom
PUSH_AWAY = 2.0  # likewise, in pixels of the image
RIDGE = 1e-6  # of the variance of the offsets, so that points in a line give a finite slope


def bilinear(
    image: Float[Tensor, "b c h w"], grid: Float[Tensor, "b v i j 2"]
) -> Float[Tensor, "b v c i j"]:
    """Sample views of each image at points (x, y), -1 and 1 its edges; black outside."""
    sampled = F.grid_sample(image, grid.flatten(1, 2), align_corners=False)  # b c vi j
    return sampled.view(*sampled.shape[:2], *grid.shape[1:4]).transpose(1, 2)


class LinearizedSampler(nn.Module):
    """Sample an image at points, each with the slope of the image around it for a gradient.

    Around each point x0 auxiliary points are drawn: x0 + N(0, 1) (0.5 / output + 2 / image),
    which does not depend on how far the points lie apart, so neither does the gradient. With dX
    their offsets and dI the differences of their bilinear values from I(x0), beta = the least
    squares plane through (dX, dI). The output is I(x0) + beta · (x0 - stop(x0)); the gradient
    of the image itself passes through I(x0) alone.

    Args:
        points: in all, the center among them.
        fixed_bias: False adds the plane's value at x0 in training, as the authors do, which makes
            the output a noisy, smoothed image.
        generator: of the offsets, on the CPU; None for torch's own.

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
            raise ValueError(f"points={points}: a plane is fitted to 3 besides the center; give 4.")
        self.points = points
        self.fixed_bias = fixed_bias
        self.generator = generator

    def forward(
        self, image: Float[Tensor, "b c h w"], grid: Float[Tensor, "b v i j 2"]
    ) -> Float[Tensor, "b v c i j"]:
        """Sample several views of each image; outside its edges the image is black."""
        noisy = self.training and not self.fixed_bias
        if not grid.requires_grad and not noisy:
            return bilinear(image, grid)
        offsets = self._offsets(image, grid)  # k i j 2
        steps = torch.cat([torch.zeros_like(offsets[:1]), offsets])
        at = grid.detach()[:, :, None] + steps  # b v 1+k i j 2
        values = bilinear(image, at.flatten(1, 2))  # b v(1+k) c i j
        values = values.reshape(*at.shape[:3], *values.shape[2:])
        center, rises = values[:, :, 0], values[:, :, 1:].detach()
        rises = rises - center.detach()[:, :, None]  # b v k c i j
        slopes = _slopes(offsets, rises)
        if noisy:
            plane = sum(
                m * each for m, each in zip(offsets.mean(0).unbind(-1), slopes, strict=True)
            )
            center = center + rises.mean(dim=2) - plane
        sloped: Tensor = _Sloped.apply(center, grid, *slopes)  # type: ignore[no-untyped-call]
        return sloped

    def _offsets(self, image: Tensor, grid: Tensor) -> Float[Tensor, "k i j 2"]:
        """Draw offsets in the coordinates of the image; those of a batch are the same."""
        height, width = grid.shape[2:4]
        seed = int(torch.randint(2**63 - 1, (), generator=self.generator))
        generator = torch.Generator(grid.device).manual_seed(seed)
        drawn = grid.new_empty(self.points - 1, height, width, 2).normal_(generator=generator)
        # The sum of two normal draws is one, of the variances added.
        spread = [
            math.hypot(GRID_SPREAD / out, PUSH_AWAY / stored)
            for out, stored in ((width, image.shape[3]), (height, image.shape[2]))
        ]
        return drawn.mul_(drawn.new_tensor(spread))


def _slopes(
    offsets: Float[Tensor, "k i j 2"], rises: Float[Tensor, "b v k c i j"]
) -> tuple[Float[Tensor, "b v c i j"], Float[Tensor, "b v c i j"]]:
    """Fit the plane, rise = slope · offset + bias, at each point, and give its slopes in x and y.

    By the normal equations the slope is cov(offset)^-1 cov(offset, rise).
    """
    x, y = (offsets - offsets.mean(dim=0)).unbind(-1)  # k i j
    xx, yy, xy = (x * x).sum(0), (y * y).sum(0), (x * y).sum(0)  # i j
    ridge = RIDGE * (xx + yy)
    xx, yy = xx + ridge, yy + ridge
    determinant = xx * yy - xy * xy
    along = ((yy * x - xy * y) / determinant, (xx * y - xy * x) / determinant)
    return _weighted(rises, along[0]), _weighted(rises, along[1])


def _weighted(
    rises: Float[Tensor, "b v k c i j"], weights: Float[Tensor, "k i j"]
) -> Float[Tensor, "b v c i j"]:
    """Sum over k, without a table of products."""
    total = torch.zeros_like(rises[:, :, 0])
    for rise, weight in zip(rises.unbind(2), weights, strict=True):
        total.addcmul_(rise, weight)
    return total


class _Sloped(torch.autograd.Function):
    """Values as they are, with a gradient for the grid they were sampled on."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, grid: Tensor, across: Tensor, down: Tensor) -> Tensor:
        ctx.save_for_backward(across, down)
        return values.clone()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor, None, None]:
        moved = [(upstream * slope).sum(dim=2) for slope in ctx.saved_tensors]  # b v i j
        return upstream, torch.stack(moved, dim=-1), None, None
