"""Mean and max pooling: the plainest models, which look at one magnification and never zoom.

Source: Ilse, Tomczak, Welling, "Attention-based Deep Multiple Instance Learning", ICML 2018: its
    baselines, with the trunk that ZoomMIL and the attention models here have.
Departs: none.
"""

import torch
from torch import nn

from parfocal.bag import Bag, Look, Prediction
from parfocal.models.layers.attention import masked_softmax, refuse_empty
from parfocal.models.layers.dropout import Dropout


class MeanPooling(nn.Module):
    """Classify the mean of a bag's embedded patches, all of them.

    Args:
        in_dim: features per patch.
        num_classes: slide labels.
        dim: width of the embedding.
        dropout: of the embedding, in training.
    """

    def __init__(
        self, in_dim: int, num_classes: int, *, dim: int = 512, dropout: float = 0.25
    ) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(in_dim, dim), nn.ReLU(), Dropout(dropout))
        self.classify = nn.Linear(dim, num_classes)

    def forward(self, bag: Bag) -> Prediction:
        """Classify one slide, given its bag; every patch counts the same.

        Raises:
            ValueError: the bag has no valid patch.
        """
        h = self.embed(bag.features())  # n c
        attention = masked_softmax(h.new_zeros(len(h)), bag.valid)  # n
        look = Look(bag.rows, attention)
        return Prediction(self.classify(attention @ h), (look,))


class MaxPooling(nn.Module):
    """Classify the maximum, dimension by dimension, of a bag's embedded patches.

    Args:
        in_dim: features per patch.
        num_classes: slide labels.
        dim: width of the embedding.
        dropout: of the embedding, in training.
    """

    def __init__(
        self, in_dim: int, num_classes: int, *, dim: int = 512, dropout: float = 0.25
    ) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(in_dim, dim), nn.ReLU(), Dropout(dropout))
        self.classify = nn.Linear(dim, num_classes)

    def forward(self, bag: Bag) -> Prediction:
        """Classify one slide, given its bag; a patch counts by the share of maxima it gives.

        Raises:
            ValueError: the bag has no valid patch.
        """
        h = self.embed(bag.features())  # n c
        valid = bag.valid  # n
        refuse_empty(valid)
        missing = ~valid.to(h.device)[:, None]
        pooled, winner = h.masked_fill(missing, float("-inf")).max(dim=0)  # c, c
        attention = torch.bincount(winner, minlength=len(h)).to(h) / len(winner)
        return Prediction(self.classify(pooled), (Look(bag.rows, attention),))
