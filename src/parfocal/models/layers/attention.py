"""Gated attention: which of a bag's instances count.

Source: Ilse, Tomczak, Welling, "Attention-based Deep Multiple Instance Learning", ICML 2018,
    with the dropouts and biases of CLAM and ZoomMIL.
"""

from jaxtyping import Bool, Float
from torch import Tensor, nn

from parfocal.models.layers.dropout import Dropout


class GatedAttention(nn.Module):
    """Score each instance: w · (tanh(Vh) ⊙ sigmoid(Uh)) + b.

    Args:
        dim: width of an instance.
        hidden_dim: width of the gate.
        dropout: of each of the two branches, in training.
    """

    def __init__(self, dim: int, hidden_dim: int = 256, *, dropout: float = 0.25) -> None:
        super().__init__()
        self.value = nn.Linear(dim, hidden_dim)
        self.gate = nn.Linear(dim, hidden_dim)
        # A product is kept where both its factors are: one draw in place of two.
        self.dropout = Dropout(1 - (1 - dropout) ** 2)
        self.score = nn.Linear(hidden_dim, 1)

    def forward(self, h: Float[Tensor, "n c"]) -> Float[Tensor, " n"]:
        """Give scores; a softmax makes attention of them."""
        gated = self.value(h).tanh_() * self.gate(h).sigmoid_()  # n hidden
        scores: Tensor = self.score(self.dropout(gated))  # n 1
        return scores.squeeze(1)


def masked_softmax(scores: Float[Tensor, " n"], valid: Bool[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Make attention of scores; exactly 0 where an instance does not exist.

    Raises:
        ValueError: no instance exists.
    """
    if not valid.any():
        raise ValueError(
            f"none of the bag's {len(valid)} patches exists, so there is nothing to attend to; "
            "give a bag with at least one valid patch at every magnification."
        )
    return scores.masked_fill(~valid.to(scores.device), float("-inf")).softmax(dim=0)
