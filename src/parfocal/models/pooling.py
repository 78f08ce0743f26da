"""Mean and max pooling: baselines that use one magnification and never zoom.

Source: the baselines of Ilse, Tomczak, Welling, "Attention-based Deep Multiple Instance Learning",
    ICML 2018, with the embedding that ZoomMIL and the attention models have here. `MeanMLP` is
    SiMLP of Li et al., "Can We Simplify Slide-level Fine-tuning of Pathology Foundation Models?",
    arXiv 2502.20823.
Departs: none. The width and the dropout of the perceptron of `MeanMLP` are ours.
"""

import torch
from torch import nn

from parfocal.bag import Bag
from parfocal.models.layers.attention import masked_softmax, require_valid
from parfocal.models.layers.dropout import Dropout
from parfocal.prediction import Look, Prediction


class MeanPooling(nn.Module):
    """Classify a slide by the mean of its embedded patches.

    Args:
        in_dim: number of features per patch.
        num_classes: number of classes.
        dim: width of the embedding.
        dropout: dropout rate in the embedding.
    """

    def __init__(
        self, in_dim: int, num_classes: int, *, dim: int = 512, dropout: float = 0.25
    ) -> None:
        super().__init__()
        self.embedder = nn.Sequential(nn.Linear(in_dim, dim), nn.ReLU(), Dropout(dropout))
        self.classifier = nn.Linear(dim, num_classes)

    def forward(self, bag: Bag) -> Prediction:
        """Classify one slide from its bag at a single magnification.

        The score of each valid patch in the look is 1/n.

        Raises:
            ValueError: the bag has no valid patch.
        """
        h = self.embedder(bag.features())  # n c
        weights = masked_softmax(h.new_zeros(len(h)), bag.valid)  # n
        look = Look(bag.rows, weights)
        return Prediction(self.classifier(weights @ h), (look,))


class MeanMLP(nn.Module):
    """Classify the mean of the features of all patches with a multilayer perceptron.

    The perceptron follows the mean; in `MeanPooling` the embedding precedes it.

    Args:
        in_dim: number of features per patch.
        num_classes: number of classes.
        hidden_dim: width of the hidden layer.
        dropout: dropout rate in the hidden layer.
    """

    def __init__(
        self, in_dim: int, num_classes: int, *, hidden_dim: int = 512, dropout: float = 0.25
    ) -> None:
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(in_dim, hidden_dim), nn.ReLU(), Dropout(dropout))
        self.classifier = nn.Linear(hidden_dim, num_classes)

    def forward(self, bag: Bag) -> Prediction:
        """Classify one slide from its bag at a single magnification.

        The score of each valid patch in the look is 1/n.

        Raises:
            ValueError: the bag has no valid patch.
        """
        x = bag.features()  # n d
        weights = masked_softmax(x.new_zeros(len(x)), bag.valid)  # n
        logits = self.classifier(self.hidden(weights @ x))
        return Prediction(logits, (Look(bag.rows, weights.cpu()),))


class MaxPooling(nn.Module):
    """Classify a slide by the maximum of its embedded patches, dimension by dimension.

    Args:
        in_dim: number of features per patch.
        num_classes: number of classes.
        dim: width of the embedding.
        dropout: dropout rate in the embedding.
    """

    def __init__(
        self, in_dim: int, num_classes: int, *, dim: int = 512, dropout: float = 0.25
    ) -> None:
        super().__init__()
        self.embedder = nn.Sequential(nn.Linear(in_dim, dim), nn.ReLU(), Dropout(dropout))
        self.classifier = nn.Linear(dim, num_classes)

    def forward(self, bag: Bag) -> Prediction:
        """Classify one slide from its bag at a single magnification.

        The score of a patch in the look is the fraction of dimensions in which it is the maximum.

        Raises:
            ValueError: the bag has no valid patch.
        """
        h = self.embedder(bag.features())  # n c
        valid = bag.valid  # n
        require_valid(valid)
        missing = ~valid.to(h.device)[:, None]
        maxima, patches = h.masked_fill(missing, float("-inf")).max(dim=0)  # c, c
        fractions = torch.bincount(patches, minlength=len(h)).to(h) / len(patches)
        return Prediction(self.classifier(maxima), (Look(bag.rows, fractions),))
