"""Classify pictures: leaves one after the other, or several pictures at once."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from parfocal.models.layers.backbone import Backbone


class LeafAggregator(nn.Module):
    """Encode leaves and classify the sequence of leaves after each of them, with a GRU.

    Args:
        backbone: network that encodes a leaf; see `Backbone`.
        num_classes: number of classes.
        num_leaves: number of leaves per slide.
        hidden_dim: width of the GRU.
    """

    def __init__(
        self, backbone: str, num_classes: int, *, num_leaves: int = 1, hidden_dim: int = 512
    ) -> None:
        super().__init__()
        self.encoder = Backbone(backbone, images_per_slide=num_leaves)
        self.gru = nn.GRU(self.encoder.dim, hidden_dim, batch_first=True)
        self.classifier = nn.Sequential(
            *(nn.Linear(hidden_dim, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU()),
            nn.Linear(256, num_classes),
        )

    def encode(self, leaves: Float[Tensor, "b n 3 h w"]) -> Float[Tensor, "b n d"]:
        """Return the features of each leaf."""
        if torch.is_grad_enabled():
            features: Tensor = self.encoder(leaves.flatten(0, 1))
        else:  # slide by slide, to save memory
            features = torch.cat([self.encoder(slide) for slide in leaves])
        return features.view(*leaves.shape[:2], -1)

    def forward(
        self, features: Float[Tensor, "b n d"], state: Float[Tensor, "1 b e"] | None = None
    ) -> tuple[Float[Tensor, "b n c"], Float[Tensor, "1 b e"]]:
        """Classify the sequence after each leaf.

        Args:
            features: features of the next leaves.
            state: state of the GRU after the previous leaves; None at the first.

        Returns:
            The logits after each leaf, and the state of the GRU after the last.
        """
        h, state = self.gru(features, state)
        return self.classifier(h), state


class AuxiliaryClassifier(nn.Module):
    """Classify several pictures together, by the mean of their features.

    Args:
        backbone: network that encodes a picture; see `Backbone`.
        num_classes: number of classes.
        num_pictures: number of pictures per slide.
    """

    def __init__(self, backbone: str, num_classes: int, *, num_pictures: int = 1) -> None:
        super().__init__()
        self.encoder = Backbone(backbone, images_per_slide=num_pictures)
        self.classifier = nn.Linear(self.encoder.dim, num_classes)

    def forward(self, pictures: Float[Tensor, "b n 3 h w"]) -> Float[Tensor, "b c"]:
        """Return the logits of each slide."""
        features: Tensor = self.encoder(pictures.flatten(0, 1))
        mean = features.view(*pictures.shape[:2], -1).mean(dim=1)
        logits: Tensor = self.classifier(mean)
        return logits
