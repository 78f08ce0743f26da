"""Sparse mixtures of patches, which the differentiable top-K selects in training.

In training, a selected "patch" is a weighted mean of several, and its children are the same mean
of their children. Only the features of patches with a weight are read.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn


@dataclass(frozen=True)
class Mixture:
    """A sparse matrix whose rows are mixtures of patches.

    Applied to the children of patches, it mixes first children with first children, second with
    second, and so on.

    Args:
        row: row of each entry, ascending.
        patch: column of each entry, the number of a patch.
        weight: value of each entry.
        num_rows: number of rows.
    """

    row: Int64[Tensor, " e"]
    patch: Int64[Tensor, " e"]
    weight: Float[Tensor, " e"]
    num_rows: int

    def apply(
        self, table: Float[Tensor, "r d"], children: Int64[Tensor, "c p"]
    ) -> Float[Tensor, "c m d"]:
        """Return the children of the mixtures: child c of mixture m.

        Args:
            table: features of the children, in any order; those without a weight are not read.
            children: row in `table` of child c of patch p.
        """
        # Neighboring rows mix the same patches. All first children are summed first, then all
        # second ones, so that features are still in the cache when the next row needs them.
        child = torch.arange(len(children), device=children.device)[:, None]
        mixed = nn.functional.embedding_bag(
            children[:, self.patch].flatten(),
            table,
            (self._row_starts() + child * len(self.patch)).flatten(),
            mode="sum",
            per_sample_weights=self.weight.repeat(len(children)),
        )
        return mixed.view(len(children), self.num_rows, -1)

    def select_children(
        self, selected: Int64[Tensor, " s"], num_children: int
    ) -> tuple["Mixture", Int64[Tensor, " q"]]:
        """Return the mixture for selected children of its rows, with one row per child.

        Args:
            selected: numbers of the selected children; child c of row m has the number
                m * num_children + c.
            num_children: number of children of each row, and of each patch.

        Returns:
            The mixture, whose patches are numbered 0, 1, ...; and for each of them which child it
            is: the number p * num_children + c for child c of patch p.
        """
        row, child = selected // num_children, selected % num_children
        counts = self.row.bincount(minlength=self.num_rows)[row]
        new_row = torch.arange(len(selected), device=row.device).repeat_interleave(counts)
        # The entries of a new row are those of the old row, shifted by a constant.
        shift = self._row_starts()[row] - (counts.cumsum(0) - counts)
        entry = torch.arange(len(new_row), device=row.device) + shift[new_row]
        patches, patch = unique_children(
            self.patch[entry] * num_children + child[new_row], num_children
        )
        return Mixture(new_row, patch, self.weight[entry], len(selected)), patches

    def _row_starts(self) -> Int64[Tensor, " m"]:
        return torch.searchsorted(self.row, torch.arange(self.num_rows, device=self.row.device))


def unique_children(
    numbers: Int64[Tensor, " e"], num_children: int
) -> tuple[Int64[Tensor, " u"], Int64[Tensor, " e"]]:
    """Return the unique numbers of children, and the position of each number among them.

    First children come first, then second ones, and so on; see `Mixture.apply` for the reason.

    Args:
        numbers: p * num_children + c for child c of patch p.
        num_children: number of children of each patch.
    """
    parents = int(numbers.max()) // num_children + 1
    keys = numbers % num_children * parents + numbers // num_children
    unique, position = torch.unique(keys, return_inverse=True)
    return unique % parents * num_children + unique // parents, position
