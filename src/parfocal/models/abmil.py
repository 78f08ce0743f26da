"""ABMIL: the mean of all patches, weighted by attention.

Source: Ilse, Tomczak, Welling, "Attention-based Deep Multiple Instance Learning", ICML 2018.
Departs: the trunk, and biases and dropout in the attention, are those of CLAM and ZoomMIL, so that
    these compare.
"""

import torch
from torch import nn

from parfocal.bag import Bag, Look, Prediction
from parfocal.models.layers.attention import (
    AT_ONCE,
    GatedAttention,
    PlainAttention,
    masked_softmax,
    pooled,
)
from parfocal.models.layers.dropout import Dropout


class ABMIL(nn.Module):
    """Classify the mean of a bag's embedded patches, weighted by attention.

    Args:
        in_dim: features per patch.
        num_classes: slide labels.
        dim: width of the embedding.
        hidden_dim: width of the attention.
        dropout: of embedding and attention, in training.
        gated: whether attention has a gate.
    """

    def __init__(
        self,
        in_dim: int,
        num_classes: int,
        *,
        dim: int = 512,
        hidden_dim: int = 256,
        dropout: float = 0.25,
        gated: bool = True,
    ) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(in_dim, dim), nn.ReLU(inplace=True), Dropout(dropout))
        attention = GatedAttention if gated else PlainAttention
        self.attend = attention(dim, hidden_dim, dropout=dropout)
        self.classify = nn.Linear(dim, num_classes)

    def forward(self, bag: Bag) -> Prediction:
        """Classify one slide, given its bag at the one magnification.

        Raises:
            ValueError: the bag has no valid patch.
        """
        parts = [self.embed(rows) for rows in torch.split(bag.features(), AT_ONCE)]  # of n c
        scores = torch.cat([self.attend(h) for h in parts])  # n
        attention = masked_softmax(scores, bag.valid)
        look = Look(bag.rows, attention.detach().cpu())
        return Prediction(self.classify(pooled(attention, parts)), (look,))
