"""Sparse mixing of patches, as a zoom in training does it.

A selected "patch" of the differentiable top-K is a mixture of several, and its children the same
mixture of theirs. Only the patches that were drawn are read, where they lie.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn


@dataclass(frozen=True)
class Mixture:
    """A sparse matrix that mixes blocks (the children of a patch) into slots.

    Args:
        slot: row of each entry, ascending.
        block: column of each entry.
        weight: its value.
        slots: number of rows.
    """

    slot: Int64[Tensor, " e"]
    block: Int64[Tensor, " e"]
    weight: Float[Tensor, " e"]
    slots: int

    def apply(self, rows: Float[Tensor, "r d"], at: Int64[Tensor, "c b"]) -> Float[Tensor, "c s d"]:
        """Mix blocks into slots, each child by itself.

        Rows are read where they lie, and only those of blocks with an entry. Neighboring slots
        share blocks, so all slots' first children come first, then the second: a row is then
        still in the cache when the next slot needs it.

        Args:
            rows: a table that holds the children.
            at: the row of child c of block b.
        """
        child = torch.arange(len(at), device=at.device)[:, None]
        mixed = nn.functional.embedding_bag(
            at[:, self.block].flatten(),
            rows,
            (self._starts() + child * len(self.block)).flatten(),
            mode="sum",
            per_sample_weights=self.weight.repeat(len(at)),
        )
        return mixed.view(len(at), self.slots, -1)

    def lifted(
        self, wanted: Int64[Tensor, " w"], children: int
    ) -> tuple["Mixture", Int64[Tensor, " b"]]:
        """Give the same mixture for some children of its slots, one slot a child.

        Args:
            wanted: the children, each `slot * children + child`.
            children: of each slot and of each block.

        Returns:
            The mixture, and the children of its blocks it needs, each `block * children + child`.
        """
        slot, child = wanted // children, wanted % children
        counts = self.slot.bincount(minlength=self.slots)[slot]
        new_slot = torch.arange(len(wanted), device=slot.device).repeat_interleave(counts)
        # A new slot's entries are those of the old one, so their numbers differ by a constant.
        shift = self._starts()[slot] - (counts.cumsum(0) - counts)
        entry = torch.arange(len(new_slot), device=slot.device) + shift[new_slot]
        needed, block = distinct(self.block[entry] * children + child[new_slot], children)
        return Mixture(new_slot, block, self.weight[entry], len(wanted)), needed

    def _starts(self) -> Int64[Tensor, " s"]:
        return torch.searchsorted(self.slot, torch.arange(self.slots, device=self.slot.device))


def distinct(
    rows: Int64[Tensor, " e"], children: int
) -> tuple[Int64[Tensor, " r"], Int64[Tensor, " e"]]:
    """Give the distinct rows, first children first (see `Mixture.apply`), and the place of each."""
    parents = int(rows.max()) // children + 1
    keys = rows % children * parents + rows // children
    distinct, place = torch.unique(keys, return_inverse=True)
    return distinct % parents * children + distinct // parents, place
