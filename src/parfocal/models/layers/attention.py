"""Attention, gated and plain: which of a bag's instances count.

Source: Ilse, Tomczak, Welling, "Attention-based Deep Multiple Instance Learning", ICML 2018,
    with the dropouts and biases of CLAM and ZoomMIL.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from parfocal.models.layers.dropout import Dropout

AT_ONCE = 2048  # instances that go through a layer together, so that what lies between stays cached


class GatedAttention(nn.Module):
    """Score each instance: w · (tanh(Vh) ⊙ sigmoid(Uh)) + b.

    Args:
        dim: width of an instance.
        hidden_dim: width of the gate.
        heads: how many scores an instance has.
        dropout: of each of the two branches, in training.
    """

    def __init__(
        self, dim: int, hidden_dim: int = 256, *, heads: int = 1, dropout: float = 0.25
    ) -> None:
        super().__init__()
        self.value = nn.Linear(dim, hidden_dim)
        self.gate = nn.Linear(dim, hidden_dim)
        # A product is kept where both its factors are: one draw in place of two.
        self.dropout = Dropout(1 - (1 - dropout) ** 2)
        self.score = nn.Linear(hidden_dim, heads)

    def forward(self, h: Float[Tensor, "n c"]) -> Float[Tensor, " n"]:
        """Give the scores of the one head; a softmax makes attention of them."""
        return self.of_heads(h).squeeze(1)

    def of_heads(self, h: Float[Tensor, "n c"]) -> Float[Tensor, "n heads"]:
        """Give the scores of each head."""
        gated = self.value(h).tanh_() * self.gate(h).sigmoid_()  # n hidden
        scores: Tensor = self.score(self.dropout(gated))
        return scores


class PlainAttention(nn.Module):
    """Score each instance: w · tanh(Vh) + b.

    Args:
        dim: width of an instance.
        hidden_dim: width of the one layer.
        dropout: of that layer, in training.
    """

    def __init__(self, dim: int, hidden_dim: int = 256, *, dropout: float = 0.25) -> None:
        super().__init__()
        self.value = nn.Linear(dim, hidden_dim)
        self.dropout = Dropout(dropout)
        self.score = nn.Linear(hidden_dim, 1)

    def forward(self, h: Float[Tensor, "n c"]) -> Float[Tensor, " n"]:
        """Give scores; a softmax makes attention of them."""
        scores: Tensor = self.score(self.dropout(self.value(h).tanh_()))  # n 1
        return scores.squeeze(1)


def masked_softmax(
    scores: Float[Tensor, "n *heads"], valid: Bool[Tensor, " n"]
) -> Float[Tensor, "n *heads"]:
    """Make attention of scores; exactly 0 where an instance does not exist.

    Raises:
        ValueError: no instance exists.
    """
    refuse_empty(valid)
    missing = ~valid.to(scores.device).view(-1, *[1] * (scores.ndim - 1))
    return scores.masked_fill(missing, float("-inf")).softmax(dim=0)


def pooled(
    attention: Float[Tensor, "n *heads"], parts: Sequence[Float[Tensor, "_ c"]]
) -> Float[Tensor, "c *heads"]:
    """Sum up instances that come in parts, weighted by their attention."""
    shares = torch.split(attention, [len(part) for part in parts])
    sums = [part.T @ share for share, part in zip(shares, parts, strict=True)]
    return torch.stack(sums).sum(dim=0)


def refuse_empty(valid: Bool[Tensor, " n"]) -> None:
    """Refuse a bag in which no instance exists.

    Raises:
        ValueError: as said.
    """
    if not valid.any():
        raise ValueError(
            f"none of the bag's {len(valid)} patches exists, so there is nothing to attend to; "
            "give a bag with at least one valid patch at every magnification."
        )
