"""SparseConvMIL: a sparse convolution over the positions of the patches.

Source: Lerousseau et al., "Sparse Convolutional Context-Aware Multiple Instance Learning for Whole
    Slide Image Classification", COMPAY 2021. Code: MarvinLer/SparseConvMIL, read and not used.
Departs: all patches are used, not a sample with replacement. Positions are rotated, flipped, scaled
    and shifted in training only, by angles in radians; the authors' code does so in testing as
    well, and takes degrees for radians.
"""

import math

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from parfocal.bag import Bag
from parfocal.models.layers.attention import require_valid
from parfocal.models.sparseconvmil.submanifold import SubmanifoldConv, find_neighbors
from parfocal.prediction import Look, Prediction

MIN_SCALE, MAX_SCALE = 0.7, 1.3  # of the random scaling of each axis


class SparseConvMIL(nn.Module):
    """Classify a slide by convolutions over the positions of its patches.

    Args:
        in_dim: number of features per patch.
        num_classes: number of classes.
        dim: width of the convolutions.
        downsample: side of a site of the convolution, in patches; the features of the patches in
            one site are averaged.
        generator: random generator on the CPU, for the augmentation of positions; None for
            PyTorch's default.

    Raises:
        ValueError: an argument is invalid.
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
        self.convolutions = nn.ModuleList([SubmanifoldConv(in_dim, dim), SubmanifoldConv(dim, dim)])
        self.classifier = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, num_classes))

    def forward(self, bag: Bag) -> Prediction:
        """Classify one slide from its bag at a single magnification.

        The score of a patch in the look is its share in the mean over sites.

        Raises:
            ValueError: the bag has no valid patch, or no positions.
        """
        features, valid = bag.features(), bag.valid
        require_valid(valid)
        exists = valid.to(features.device)
        cells = bag.cells()[valid].to(features.device)
        slides = bag.slides()[valid].to(features.device)
        if self.training:
            cells = augment_positions(cells, self.generator)
        sites, site = torch.unique(
            torch.column_stack([slides, cells.div(self.downsample, rounding_mode="floor")]),
            dim=0,
            return_inverse=True,
        )
        patches = site.bincount()  # number of patches in each site
        h = features.new_zeros(len(sites), features.shape[1])
        h = h.index_add(0, site, features[exists]) / patches[:, None]
        neighbors = find_neighbors(sites[:, 1:], sites[:, 0])
        for convolution in self.convolutions:
            h = convolution(h, neighbors).relu()
        logits = self.classifier(h.mean(dim=0))
        shares = 1 / (len(sites) * patches[site].float())
        scores = torch.zeros(len(features)).masked_scatter_(valid, shares.cpu())
        return Prediction(logits, (Look(bag.rows, scores),))


def augment_positions(
    cells: Int64[Tensor, "n 2"], generator: torch.Generator | None
) -> Int64[Tensor, "n 2"]:
    """Rotate, flip, scale and shift positions at random."""
    turn, *draws = torch.rand(7, generator=generator).tolist()
    angle = 2 * math.pi * turn
    flips = [1 if draw < 0.5 else -1 for draw in draws[:2]]
    scales = [MIN_SCALE + (MAX_SCALE - MIN_SCALE) * draw for draw in draws[2:4]]
    matrix = torch.tensor(
        [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    ) * torch.tensor([flips[0] * scales[0], flips[1] * scales[1]])
    extent = cells.amax(dim=0) - cells.amin(dim=0) + 1
    shift = torch.tensor(draws[4:]).to(extent.device) * extent
    return (cells.float() @ matrix.to(cells.device) + shift).floor().long()
