"""A 3 x 3 convolution over scattered sites, whose answers lie at those sites alone.

Source: Graham, van der Maaten, "Submanifold Sparse Convolutional Networks", 2017.
Departs: none. Neighbors are found by sorting, so no library of sparse tensors is needed.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

OFFSETS = [(column, row) for row in (-1, 0, 1) for column in (-1, 0, 1)]


class SubmanifoldConv(nn.Module):
    """Convolve what lies at sites with what lies at their neighbors.

    Args:
        in_dim: width at a site.
        out_dim: width of the answer.
    """

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.out_dim = out_dim
        self.spread = nn.Linear(in_dim, len(OFFSETS) * out_dim, bias=False)
        self.bias = nn.Parameter(torch.zeros(out_dim))

    def forward(
        self, x: Float[Tensor, "n c"], neighbors: Int64[Tensor, "n 9"]
    ) -> Float[Tensor, "n d"]:
        """Give the convolution at each site; what `neighbors` has as -1 is zero."""
        # Each site first works out what it gives to each of its neighbors: narrower than `x`.
        given = self.spread(x).view(len(x), len(OFFSETS), self.out_dim)
        result = self.bias.expand(len(x), -1)
        for offset in range(len(OFFSETS)):
            at = neighbors[:, offset]
            there = at >= 0
            result = result.index_add(0, there.nonzero()[:, 0], given[at[there], offset])
        return result


def neighbors_of(cells: Int64[Tensor, "n 2"]) -> Int64[Tensor, "n 9"]:
    """Find for each site those around it, in the order of OFFSETS; -1 where there is none.

    Args:
        cells: (column, row) of the sites, each once.
    """
    cells = cells - cells.amin(dim=0)
    width = int(cells[:, 0].max()) + 3  # a margin, so that no row runs on into the next
    keys = (cells[:, 1] + 1) * width + cells[:, 0] + 1
    ordered, order = keys.sort()
    offsets = torch.tensor([row * width + column for column, row in OFFSETS], device=keys.device)
    wanted = keys[:, None] + offsets  # n 9
    place = torch.searchsorted(ordered, wanted).clamp(max=len(keys) - 1)
    return torch.where(ordered[place] == wanted, order[place], -1)
