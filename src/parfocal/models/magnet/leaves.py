"""Reading pictures: one after the other with a running answer, or all at once."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from parfocal.models.layers.backbone import Backbone

AT_ONCE = 16  # pictures whose activations are kept, where those of others are computed again


class Reader(nn.Module):
    """Encodes pictures, and gives an answer after each, from it and all before.

    Args:
        backbone: that encodes.
        num_classes: of the answer.
        hidden_dim: of the GRU that remembers.
        gradient_checkpointing: compute the backbone's activations again going back, to save memory.
    """

    def __init__(
        self,
        backbone: str,
        num_classes: int,
        *,
        hidden_dim: int = 512,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.gradient_checkpointing = gradient_checkpointing
        self.encode = Backbone(backbone)
        self.remember = nn.GRU(self.encode.dim, hidden_dim, batch_first=True)
        self.classify = nn.Sequential(
            *(nn.Linear(hidden_dim, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU()),
            nn.Linear(256, num_classes),
        )

    def encoded(self, pictures: Float[Tensor, "b n 3 h w"]) -> Float[Tensor, "b n d"]:
        """Give the features of each picture."""
        each = pictures.flatten(0, 1)
        if self.gradient_checkpointing and self.training:
            parts = torch.split(each, AT_ONCE)
            features = torch.cat([checkpoint(self.encode, p, use_reentrant=False) for p in parts])
        else:
            features = self.encode(each)
        return features.view(*pictures.shape[:2], -1)

    def forward(
        self, features: Float[Tensor, "b n d"], memory: Float[Tensor, "1 b e"] | None = None
    ) -> tuple[Float[Tensor, "b n c"], Float[Tensor, "1 b e"]]:
        """Give logits after each picture, from its features, and the memory to go on with."""
        h, memory = self.remember(features, memory)
        return self.classify(h), memory


class AuxiliaryClassifier(nn.Module):
    """Classifies several pictures together, by the mean of their features.

    Args:
        backbone: that encodes.
        num_classes: of the answer.
    """

    def __init__(self, backbone: str, num_classes: int) -> None:
        super().__init__()
        self.encode = Backbone(backbone)
        self.classify = nn.Linear(self.encode.dim, num_classes)

    def forward(self, pictures: Float[Tensor, "b n 3 h w"]) -> Float[Tensor, "b c"]:
        """Give logits."""
        features: Tensor = self.encode(pictures.flatten(0, 1))
        logits: Tensor = self.classify(features.view(*pictures.shape[:2], -1).mean(dim=1))
        return logits
