"""Dropout that is fast on a CPU.

Source: Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting",
    JMLR 2014.
Departs: the rate is rounded to a multiple of 1/65536.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

STEPS = 2**16  # number of values of the 16 random bits that decide about one element


class Dropout(nn.Module):
    """Set random elements to zero in training, and scale the others so that the mean stays.

    On a CPU, `torch.nn.Dropout` draws one random number per element, one after the other, which
    takes a fifth of a training step of ZoomMIL. Here one draw of 64 bits decides about four
    elements. On a GPU this is `torch.nn.functional.dropout`.

    Args:
        rate: fraction of the elements to set to zero, at least 0 and less than 1.

    Raises:
        ValueError: an argument is invalid.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"dropout={rate}: a dropout rate is at least 0 and less than 1.")
        self.rate = rate

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return `x` with dropout in training, and unchanged otherwise."""
        if not self.training or self.rate == 0:
            return x
        if x.is_cuda:
            return nn.functional.dropout(x, self.rate)
        draws = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
        bits = draws.view(torch.int16)[: x.numel()].view_as(x)
        kept = bits >= round(self.rate * STEPS) - STEPS // 2
        return x * kept.to(x.dtype).mul_(1 / (1 - self.rate))
