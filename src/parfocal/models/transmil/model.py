"""TransMIL: patches attend to each other before the slide is classified.

Source: Shao et al., "TransMIL: Transformer based Correlated Multiple Instance Learning for Whole
    Slide Image Classification", NeurIPS 2021. Code: szc19990412/TransMIL, read and not used.
Departs: see `layers/nystrom.py`. As published, the square in which patches are neighbors is filled
    in the order of the bag, and is not the slide's own plane.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from parfocal.bag import Bag, Look, Prediction
from parfocal.models.layers.attention import refuse_empty
from parfocal.models.transmil.nystrom import NystromAttention

KERNELS = (7, 5, 3)


class TransMIL(nn.Module):
    """Classify a slide by a token that attends to its patches, which attend to each other.

    Args:
        in_dim: features per patch.
        num_classes: slide labels.
        dim: width of a token.
        heads: of attention; they share `dim`.
        landmarks: of the attention.
        iterations: of its pseudo-inverse.
        dropout: of what is attended to, in training.
    """

    def __init__(
        self,
        in_dim: int,
        num_classes: int,
        *,
        dim: int = 512,
        heads: int = 8,
        landmarks: int = 256,
        iterations: int = 6,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(in_dim, dim), nn.ReLU(inplace=True))
        self.slide = nn.Parameter(torch.randn(1, dim))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(3))
        self.attends = nn.ModuleList(
            NystromAttention(
                dim,
                heads=heads,
                head_dim=dim // heads,
                landmarks=landmarks,
                iterations=iterations,
                dropout=dropout,
            )
            for _ in range(2)
        )
        # Together they tell a token of its neighbors in the square, and so of its place.
        self.place = nn.ModuleList(
            nn.Conv2d(dim, dim, kernel, padding=kernel // 2, groups=dim) for kernel in KERNELS
        )
        self.classify = nn.Linear(dim, num_classes)

    def forward(self, bag: Bag) -> Prediction:
        """Classify one slide, given its bag at the one magnification.

        Raises:
            ValueError: the bag has no valid patch.
        """
        features, valid = bag.features(), bag.valid
        refuse_empty(valid)
        exists = valid.to(features.device)
        h = self.embed(features if valid.all() else features[exists])  # n c
        side = math.ceil(math.sqrt(len(h)))
        # The square is filled up with the first patches once more.
        x = torch.cat([self.slide, h, h[: side**2 - len(h)]])
        x = x + self.attends[0](self.norms[0](x))[0]
        x = torch.cat([x[:1], self._placed(x[1:], side)])
        attended, first = self.attends[1](self.norms[1](x))
        logits = self.classify(self.norms[2](x[0] + attended[0]))
        shown = first[1 : 1 + len(h)].cpu()
        shown[: side**2 - len(h)] += first[1 + len(h) :].cpu()
        attention = shown.new_zeros(len(features)).masked_scatter_(valid, shown / shown.sum())
        return Prediction(logits, (Look(bag.rows, attention),))

    def _placed(self, x: Float[Tensor, "s2 c"], side: int) -> Float[Tensor, "s2 c"]:
        """Add to each token convolutions over the square, row by row."""
        square = x.T.reshape(1, -1, side, side)
        placed: Tensor = square + sum(convolve(square) for convolve in self.place)
        return placed.flatten(2)[0].T
