"""ABMIL: classify the attention-weighted mean of all patches.

Source: Ilse, Tomczak, Welling, "Attention-based Deep Multiple Instance Learning", ICML 2018.
Departs: the embedding, and the biases and dropout in the attention, are those of CLAM and ZoomMIL,
    so that the three are comparable.
"""

import torch
from torch import nn

from parfocal.bag import Bag
from parfocal.models.layers.attention import (
    CHUNK,
    GatedAttention,
    PlainAttention,
    masked_softmax,
    weighted_sum,
)
from parfocal.models.layers.dropout import Dropout
from parfocal.prediction import Look, Prediction


class ABMIL(nn.Module):
    """Classify a slide by the attention-weighted mean of its embedded patches.

    Args:
        in_dim: number of features per patch.
        num_classes: number of classes.
        dim: width of the embedding.
        hidden_dim: width of the attention's hidden layer.
        dropout: dropout rate in the embedding and in the attention.
        gated: whether the attention has a gate; if False, the score is w · tanh(Vh) + b.
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
        self.embedder = nn.Sequential(
            nn.Linear(in_dim, dim), nn.ReLU(inplace=True), Dropout(dropout)
        )
        attention = GatedAttention if gated else PlainAttention
        self.attention = attention(dim, hidden_dim, dropout=dropout)
        self.classifier = nn.Linear(dim, num_classes)

    def forward(self, bag: Bag) -> Prediction:
        """Classify one slide from its bag at a single magnification.

        Raises:
            ValueError: the bag has no valid patch.
        """
        chunks = [self.embedder(rows) for rows in torch.split(bag.features(), CHUNK)]  # each n c
        scores = torch.cat([self.attention(h) for h in chunks])  # n
        attention = masked_softmax(scores, bag.valid)
        look = Look(bag.rows, attention.detach().cpu())
        return Prediction(self.classifier(weighted_sum(attention, chunks)), (look,))
