"""Batch norms and other means over a batch whose slides are in several processes."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own short name)
from jaxtyping import Float
from torch import Tensor, nn

# Sums a tensor over the processes that hold parts of a batch, in place, and returns it.
Total = Callable[[Tensor], Tensor]


class SharedBatchNorm(nn.Module):
    """Normalize like a batch norm, with the statistics of all parts of a batch.

    `torch.nn.SyncBatchNorm` does the same, but not on a CPU.

    Args:
        norm: batch norm whose weights and running statistics are used.
        current: returns the sum over the processes that work on the current batch.
    """

    weight: Tensor | None
    bias: Tensor | None
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, norm: nn.BatchNorm1d | nn.BatchNorm2d, current: Callable[[], Total]) -> None:
        super().__init__()
        assert norm.momentum is not None
        self.eps, self.momentum, self._current = norm.eps, norm.momentum, current
        self.register_parameter("weight", norm.weight)
        self.register_parameter("bias", norm.bias)
        for name, buffer in norm.named_buffers():
            self.register_buffer(name, buffer)
        self.training = norm.training

    def forward(self, x: Float[Tensor, "n c *hw"]) -> Float[Tensor, "n c *hw"]:
        """Return the normalized input; in training, by the statistics of the whole batch."""
        if not self.training:
            statistics = self.running_mean, self.running_var
            return F.batch_norm(x, *statistics, self.weight, self.bias, eps=self.eps)
        normed, mean, variance, count = _Normalize.apply(  # type: ignore[no-untyped-call]
            *(x, self.weight, self.bias, self.eps, self._current())
        )
        with torch.no_grad():
            unbiased = variance * (count / (count - 1).clamp_min(1))
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(unbiased, self.momentum)
            self.num_batches_tracked.add_(1)
        result: Tensor = normed
        return result


class _Normalize(torch.autograd.Function):
    """Normalize a part of a batch by the mean and the variance of the whole batch.

    With the normalized value z of an input x and the gradient g of the output, the gradient of x is
    w / sigma (g - mean(g) - z mean(g z)), with means over the whole batch.
    """

    @staticmethod
    def forward(  # type: ignore[no-untyped-def]  # noqa: PLR0917 (apply takes no keywords)
        ctx, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, total: Total
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the output, and the mean, variance and number of values of each channel."""
        values = x if x.dtype == torch.float64 else x.float()
        axes = [axis for axis in range(x.dim()) if axis != 1]
        own = values.new_tensor([x.numel() / x.shape[1]])
        sums = total(torch.cat([values.sum(axes), own]))
        count = sums[-1]
        mean = sums[:-1] / count
        variance = total((values - _as(mean, x)).square().sum(axes)) / count
        scale = (variance + eps).rsqrt()
        ctx.save_for_backward(x, weight, mean, scale, count)
        ctx.total, ctx.axes = total, axes
        ctx.mark_non_differentiable(mean, variance, count)
        normed = F.batch_norm(values, mean, variance, weight, bias, eps=eps)
        return normed.to(x.dtype), mean, variance, count

    @staticmethod
    def backward(ctx, gradient: Tensor, *_: Any) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]
        """Return the gradients of the input and of this part's weights."""
        x, weight, mean, scale, count = ctx.saved_tensors
        g = gradient if x.dtype == torch.float64 else gradient.float()
        z = (x.to(g) - _as(mean, x)) * _as(scale, x)
        own_bias, own_weight = g.sum(ctx.axes), (g * z).sum(ctx.axes)
        sums = ctx.total(torch.stack([own_bias, own_weight])) / count
        factor = scale if weight is None else scale * weight
        inner = g - _as(sums[0], x) - z * _as(sums[1], x)
        own = (own_weight, own_bias) if weight is not None else (None, None)
        return (_as(factor, x) * inner).to(x.dtype), *own, None, None


def share_statistics(model: nn.Module, current: Callable[[], Total]) -> None:
    """Compute the statistics of a batch over all processes that work on it.

    Batch norms are replaced. A module with an attribute `batch_total` gets `current` as its value.

    Args:
        model: model to change.
        current: returns the sum over the processes that work on the current batch.
    """
    for module in list(model.modules()):
        if hasattr(module, "batch_total"):
            setattr(module, "batch_total", current)  # noqa: B010 (a module has no such attribute)
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d) and _is_plain(child):
                setattr(module, name, SharedBatchNorm(child, current))


def _is_plain(norm: nn.Module) -> bool:
    """Return whether a batch norm only normalizes; those of timm also apply an activation."""
    return type(norm) in (nn.BatchNorm1d, nn.BatchNorm2d)


def _as(channels: Float[Tensor, " c"], like: Float[Tensor, "n c *hw"]) -> Tensor:
    """Return one number per channel in a shape that goes with an input."""
    return channels.view(1, -1, *(1 for _ in like.shape[2:]))
