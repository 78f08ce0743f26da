"""TransMIL: a transformer over the patches of a slide.

Source: Shao et al., "TransMIL: Transformer based Correlated Multiple Instance Learning for Whole
    Slide Image Classification", NeurIPS 2021. Code: szc19990412/TransMIL, read and not used.
Departs: see `parfocal.models.transmil.nystrom`. As in the paper, the square of the position
    encoding is filled in the order of the bag; it is not the plane of the slide. In the bag of a
    patient, each slide has a square of its own.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from parfocal.bag import Bag
from parfocal.models.layers.attention import require_valid
from parfocal.models.transmil.nystrom import NystromAttention
from parfocal.prediction import Look, Prediction

KERNEL_SIZES = (7, 5, 3)


class TransMIL(nn.Module):
    """Classify a slide by a class token and two layers of self-attention over its patches.

    Args:
        in_dim: number of features per patch.
        num_classes: number of classes.
        dim: width of the tokens.
        num_heads: number of attention heads; divides `dim`.
        num_landmarks: number of landmarks of the Nyström attention.
        pinv_iterations: number of iterations of its pseudo-inverse.
        dropout: dropout rate after the attention.
    """

    def __init__(
        self,
        in_dim: int,
        num_classes: int,
        *,
        dim: int = 512,
        num_heads: int = 8,
        num_landmarks: int = 256,
        pinv_iterations: int = 6,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.embedder = nn.Sequential(nn.Linear(in_dim, dim), nn.ReLU(inplace=True))
        self.class_token = nn.Parameter(torch.randn(1, dim))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(3))
        self.attention = nn.ModuleList(
            NystromAttention(
                dim,
                num_heads=num_heads,
                head_dim=dim // num_heads,
                num_landmarks=num_landmarks,
                pinv_iterations=pinv_iterations,
                dropout=dropout,
            )
            for _ in range(2)
        )
        # Their sum encodes the position of a token in the square by its neighbors there.
        self.position_convolutions = nn.ModuleList(
            nn.Conv2d(dim, dim, size, padding=size // 2, groups=dim) for size in KERNEL_SIZES
        )
        self.classifier = nn.Linear(dim, num_classes)

    def forward(self, bag: Bag) -> Prediction:
        """Classify one slide from its bag at a single magnification.

        The score of a patch in the look is the attention of the class token in the second layer.

        Raises:
            ValueError: the bag has no valid patch.
        """
        features, valid = bag.features(), bag.valid
        require_valid(valid)
        exists = valid.to(features.device)
        h = self.embedder(features if valid.all() else features[exists])  # n c
        counts = [count for count in bag.slides()[valid].bincount().tolist() if count]
        squares = [_fill_square(each) for each in h.split(counts)]  # of each slide
        x = torch.cat([self.class_token, *squares])
        # The class token is next to the first slide.
        lengths = [len(square) for square in squares]
        parts = [1 + lengths[0], *lengths[1:]]
        x = x + self.attention[0](self.norms[0](x), parts)[0]
        x = torch.cat([x[:1], *(self._encode_positions(each) for each in x[1:].split(lengths))])
        attended, weights = self.attention[1](self.norms[1](x), parts)
        logits = self.classifier(self.norms[2](x[0] + attended[0]))
        scores = torch.cat(
            [
                _without_repeats(each, count)
                for each, count in zip(weights[1:].cpu().split(lengths), counts, strict=True)
            ]
        )
        scores = scores.new_zeros(len(features)).masked_scatter_(valid, scores / scores.sum())
        return Prediction(logits, (Look(bag.rows, scores),))

    def _encode_positions(self, x: Float[Tensor, "s2 c"]) -> Float[Tensor, "s2 c"]:
        """Add convolutions over the square, which is filled row by row."""
        side = math.isqrt(len(x))
        square = x.T.reshape(1, -1, side, side)
        encoded: Tensor = square + sum(conv(square) for conv in self.position_convolutions)
        return encoded.flatten(2)[0].T


def _fill_square(tokens: Float[Tensor, "n c"]) -> Float[Tensor, "s2 c"]:
    """Repeat the first tokens, so that the number of tokens is a square."""
    side = math.ceil(math.sqrt(len(tokens)))
    return torch.cat([tokens, tokens[: side**2 - len(tokens)]])


def _without_repeats(weights: Float[Tensor, " s2"], count: int) -> Float[Tensor, " n"]:
    """Return the weights of the first tokens, each with the weight of its repetition."""
    scores = weights[:count].clone()
    scores[: len(weights) - count] += weights[count:]
    return scores
