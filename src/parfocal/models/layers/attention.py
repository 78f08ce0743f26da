"""Attention over the patches of a bag, with and without a gate.

Source: Ilse, Tomczak, Welling, "Attention-based Deep Multiple Instance Learning", ICML 2018,
    with the dropout and biases of CLAM and ZoomMIL.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from parfocal.models.layers.dropout import Dropout

CHUNK = 2048  # patches per pass through the layers, few enough that activations stay in the cache


class GatedAttention(nn.Module):
    """Compute a score for each patch: w · (tanh(Vh) ⊙ sigmoid(Uh)) + b.

    Args:
        dim: number of features per patch.
        hidden_dim: width of the hidden layer.
        heads: number of scores per patch.
        dropout: dropout rate after each of the two branches.
    """

    def __init__(
        self, dim: int, hidden_dim: int = 256, *, heads: int = 1, dropout: float = 0.25
    ) -> None:
        super().__init__()
        self.value = nn.Linear(dim, hidden_dim)
        self.gate = nn.Linear(dim, hidden_dim)
        # A product is kept if both of its factors are, so one mask does the work of two.
        self.dropout = Dropout(1 - (1 - dropout) ** 2)
        self.score = nn.Linear(hidden_dim, heads)

    def forward(self, h: Float[Tensor, "n c"]) -> Float[Tensor, " n"]:
        """Return one score per patch, for a module with a single head; see `masked_softmax`."""
        return self.score_heads(h).squeeze(1)

    def score_heads(self, h: Float[Tensor, "n c"]) -> Float[Tensor, "n heads"]:
        """Return the scores of every head."""
        gated = self.value(h).tanh_() * self.gate(h).sigmoid_()  # n hidden
        scores: Tensor = self.score(self.dropout(gated))
        return scores


class PlainAttention(nn.Module):
    """Compute a score for each patch: w · tanh(Vh) + b.

    Args:
        dim: number of features per patch.
        hidden_dim: width of the hidden layer.
        dropout: dropout rate after the hidden layer.
    """

    def __init__(self, dim: int, hidden_dim: int = 256, *, dropout: float = 0.25) -> None:
        super().__init__()
        self.value = nn.Linear(dim, hidden_dim)
        self.dropout = Dropout(dropout)
        self.score = nn.Linear(hidden_dim, 1)

    def forward(self, h: Float[Tensor, "n c"]) -> Float[Tensor, " n"]:
        """Return one score per patch; see `masked_softmax`."""
        scores: Tensor = self.score(self.dropout(self.value(h).tanh_()))  # n 1
        return scores.squeeze(1)


def masked_softmax(
    scores: Float[Tensor, "n *heads"], valid: Bool[Tensor, " n"]
) -> Float[Tensor, "n *heads"]:
    """Return the attention weights: a softmax over the valid patches, and 0 for the others.

    Raises:
        ValueError: no patch is valid.
    """
    require_valid(valid)
    missing = ~valid.to(scores.device).view(-1, *[1] * (scores.ndim - 1))
    return scores.masked_fill(missing, float("-inf")).softmax(dim=0)


def weighted_sum(
    attention: Float[Tensor, "n *heads"], chunks: Sequence[Float[Tensor, "_ c"]]
) -> Float[Tensor, "c *heads"]:
    """Return the sum of all patches, weighted by their attention.

    Args:
        attention: weight of each patch.
        chunks: features of the patches, split along the first axis.
    """
    weights = torch.split(attention, [len(chunk) for chunk in chunks])
    sums = [chunk.T @ weight for weight, chunk in zip(weights, chunks, strict=True)]
    return torch.stack(sums).sum(dim=0)


def require_valid(valid: Bool[Tensor, " n"]) -> None:
    """Raise an error if a bag has no valid patch.

    Raises:
        ValueError: no patch is valid.
    """
    if not valid.any():
        raise ValueError(
            f"the bag has no valid patch among its {len(valid)}; "
            "every magnification needs at least one."
        )
