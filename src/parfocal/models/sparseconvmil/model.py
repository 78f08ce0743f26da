"""SparseConvMIL: patches are laid out where they lie, and a sparse convolution looks at neighbors.

Source: Lerousseau et al., "Sparse Convolutional Context-Aware Multiple Instance Learning for Whole
    Slide Image Classification", COMPAY 2021. Code: MarvinLer/SparseConvMIL, read and not used.
Departs: all patches are looked at, where the authors draw some with replacement. Places are turned,
    flipped, min_max_scaled and shifted in training alone, and by angles in radians; the code does so
    when it is tested too, and takes degrees for radians.
"""

import math

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from parfocal.bag import Bag, Look, Prediction
from parfocal.models.layers.attention import refuse_empty
from parfocal.models.sparseconvmil.submanifold import SubmanifoldConv, neighbors_of

STRETCH = (0.7, 1.3)


class SparseConvMIL(nn.Module):
    """Classify a slide by convolutions over the places of its patches.

    Args:
        in_dim: features per patch.
        num_classes: slide labels.
        dim: width of the convolutions.
        downsample: patches along the side of a site; those in one site are averaged.
        generator: of the changes of places, on the CPU; None for torch's own.

    Raises:
        ValueError: `downsample` is less than 1.
    """

    def __init__(
        self,
        in_dim: int,
        num_classes: int,
        *,
        dim: int = 32,
        downsample: int = 10,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if downsample < 1:
            raise ValueError(f"downsample={downsample}: a site is at least 1 patch wide.")
        self.downsample = downsample
        self.generator = generator
        self.convolve = nn.ModuleList([SubmanifoldConv(in_dim, dim), SubmanifoldConv(dim, dim)])
        self.classify = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, num_classes))

    def forward(self, bag: Bag) -> Prediction:
        """Classify one slide, given its bag at the one magnification.

        Raises:
            ValueError: the bag has no valid patch, or its patches have no places.
        """
        features, valid = bag.features(), bag.valid
        refuse_empty(valid)
        exists = valid.to(features.device)
        cells = bag.cells()[valid].to(features.device)
        if self.training:
            cells = moved(cells, self.generator)
        sites, member = torch.unique(
            cells.div(self.downsample, rounding_mode="floor"), dim=0, return_inverse=True
        )
        shared = member.bincount()  # patches in each site
        h = features.new_zeros(len(sites), features.shape[1])
        h = h.index_add(0, member, features[exists]) / shared[:, None]
        neighbors = neighbors_of(sites)
        for convolve in self.convolve:
            h = convolve(h, neighbors).relu()
        logits = self.classify(h.mean(dim=0))
        # A site counts as any other, and its patches share what it counts.
        share = 1 / (len(sites) * shared[member].float())
        attention = torch.zeros(len(features)).masked_scatter_(valid, share.cpu())
        return Prediction(logits, (Look(bag.rows, attention),))


def moved(cells: Int64[Tensor, "n 2"], generator: torch.Generator | None) -> Int64[Tensor, "n 2"]:
    """Turn places by any angle, flip, stretch each axis by 0.7 to 1.3 and shift, at random."""
    angle, *draws = torch.rand(7, generator=generator).tolist()
    turn = 2 * math.pi * angle
    flips = [1 if draw < 0.5 else -1 for draw in draws[:2]]
    stretches = [STRETCH[0] + (STRETCH[1] - STRETCH[0]) * draw for draw in draws[2:4]]
    matrix = torch.tensor(
        [[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]]
    ) * torch.tensor([flips[0] * stretches[0], flips[1] * stretches[1]])
    spread = cells.amax(dim=0) - cells.amin(dim=0) + 1
    shift = torch.tensor(draws[4:]).to(spread.device) * spread
    return (cells.float() @ matrix.to(cells.device) + shift).floor().long()
