"""A 3 x 3 submanifold convolution: input and output exist at the same scattered sites.

Source: Graham, van der Maaten, "Submanifold Sparse Convolutional Networks", 2017.
Departs: none. Neighbors are found by sorting, so no library of sparse tensors is needed.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

OFFSETS = [(column, row) for row in (-1, 0, 1) for column in (-1, 0, 1)]


class SubmanifoldConv(nn.Module):
    """Convolve features at sites of a grid; a neighbor that does not exist counts as zero.

    Args:
        in_dim: number of input features per site.
        out_dim: number of output features per site.
    """

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.out_dim = out_dim
        self.projection = nn.Linear(in_dim, len(OFFSETS) * out_dim, bias=False)
        self.bias = nn.Parameter(torch.zeros(out_dim))

    def forward(
        self, x: Float[Tensor, "n c"], neighbors: Int64[Tensor, "n 9"]
    ) -> Float[Tensor, "n d"]:
        """Return the convolution at each site.

        Args:
            x: features of the sites.
            neighbors: position of each site's neighbors, see `find_neighbors`.
        """
        # Each site first computes its part in the output of each neighbor: narrower than `x`.
        parts = self.projection(x).view(len(x), len(OFFSETS), self.out_dim)
        result = self.bias.expand(len(x), -1)
        for offset in range(len(OFFSETS)):
            neighbor = neighbors[:, offset]
            exists = neighbor >= 0
            result = result.index_add(0, exists.nonzero()[:, 0], parts[neighbor[exists], offset])
        return result


def find_neighbors(
    cells: Int64[Tensor, "n 2"], slides: Int64[Tensor, " n"] | None = None
) -> Int64[Tensor, "n 9"]:
    """Return the positions of the sites around each site, in the order of OFFSETS; -1 for none.

    Args:
        cells: (column, row) of the sites, without duplicates on a slide.
        slides: slide of each site; None if all are on one slide. Sites of different slides are no
            neighbors.
    """
    cells = cells - cells.amin(dim=0)
    width = int(cells[:, 0].max()) + 3  # with a margin, so that no row continues in the next
    rows = cells[:, 1]
    if slides is not None:
        rows = rows + slides * (rows.max() + 2)  # one below the other, with an empty row between
    keys = (rows + 1) * width + cells[:, 0] + 1
    sorted_keys, order = keys.sort()
    offsets = torch.tensor([row * width + column for column, row in OFFSETS], device=keys.device)
    neighbor_keys = keys[:, None] + offsets  # n 9
    place = torch.searchsorted(sorted_keys, neighbor_keys).clamp(max=len(keys) - 1)
    return torch.where(sorted_keys[place] == neighbor_keys, order[place], -1)
