"""Dropout that is quick on a CPU.

Source: Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting",
    JMLR 2014.
Departs: the rate is rounded to a 65536th.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

STEPS = 2**16  # values of the 16 random bits that decide over an element


class Dropout(nn.Module):
    """Zero elements at random in training, and scale up the others.

    Torch draws one number an element on a CPU, one after the other: a fifth of a training step of
    ZoomMIL. Here one draw of 64 bits serves four elements.

    Args:
        rate: share of the elements that are zeroed.

    Raises:
        ValueError: `rate` is not in 0..1, 1 left out.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"rate={rate}: dropout zeroes a share of 0 or more, and not all.")
        self.rate = rate

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Give `x`, with some of it zeroed in training."""
        if not self.training or self.rate == 0:
            return x
        if x.is_cuda:
            return nn.functional.dropout(x, self.rate)
        draws = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
        bits = draws.view(torch.int16)[: x.numel()].view_as(x)
        kept = bits >= round(self.rate * STEPS) - STEPS // 2
        return x * kept.to(x.dtype).mul_(1 / (1 - self.rate))
