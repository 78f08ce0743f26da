"""Sparsemax: the Euclidean projection onto the probability simplex, a sparse softmax.

Source: Martins & Astudillo, "From Softmax to Sparsemax", ICML 2016.
Departs: none.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


def sparsemax(scores: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
    """Project scores onto the probability simplex, along the last axis.

    p = max(z - tau, 0), with tau such that p sums to 1. The gradient is the upstream gradient
    minus its mean over the support of p, and 0 outside the support.
    """
    projected: Tensor = _Sparsemax.apply(scores)  # type: ignore[no-untyped-call]
    return projected


class _Sparsemax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor) -> Tensor:
        z = scores - scores.amax(dim=-1, keepdim=True)  # same result, smaller rounding error
        ranked = z.sort(dim=-1, descending=True).values
        excess = ranked.cumsum(dim=-1) - 1
        rank = torch.arange(1, z.shape[-1] + 1, device=z.device, dtype=z.dtype)
        support = (rank * ranked > excess).sum(dim=-1, keepdim=True)
        tau = excess.gather(-1, support - 1) / support
        projected = (z - tau).clamp_min(0)
        ctx.save_for_backward(projected > 0)
        return projected

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Tensor:
        (support,) = ctx.saved_tensors
        kept = upstream * support
        mean = kept.sum(-1, keepdim=True) / support.sum(-1, keepdim=True)
        projected: Tensor = (kept - mean) * support
        return projected
