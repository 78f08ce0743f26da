"""What a model is given, and what it answers.

A bag holds one slide's patches at one magnification, and zooms into those a model selects.
`StoredBag` is that over any table of nested rows: tensors in memory, an HDF5 file, or rows
that are read and encoded when asked for. The mathematics of zooming lives here, once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor


@dataclass(frozen=True)
class Look:
    """What a model saw at one magnification.

    Args:
        rows: which patches of that magnification, in the nested order of the grid; -1 for
            a row that mixes several (in training only).
        attention: how much each counted; sums to 1.
        selected: positions in `rows` that were zoomed into; None at the last look.
        zoom_attention: the attention that chose them; None at the last look.
    """

    rows: Int64[Tensor, " n"]
    attention: Float[Tensor, " n"]
    selected: Int64[Tensor, " k"] | None = None
    zoom_attention: Float[Tensor, " n"] | None = None


@dataclass(frozen=True)
class Prediction:
    """A model's answer for one slide: a score per class, and where it looked, lowest first."""

    logits: Float[Tensor, " c"]
    looks: tuple[Look, ...] = field(default=())
    stop_reason: str = "every magnification looked at"

    @property
    def attention(self) -> tuple[Float[Tensor, " _"], ...]:
        """Attention by magnification, lowest first."""
        return tuple(look.attention for look in self.looks)


@runtime_checkable
class Bag(Protocol):
    """One slide's patches at one magnification."""

    @property
    def rows(self) -> Int64[Tensor, " n"]:
        """Which patches these are, in the grid's nested order; -1 where several are mixed."""

    @property
    def valid(self) -> Bool[Tensor, " n"]:
        """False where a patch does not exist, as beyond the edge of the scan."""

    def features(self) -> Float[Tensor, "n d"]:
        """Give the patches' features; those that do not exist are zero."""

    def zoom(self, select: Float[Tensor, "k n"]) -> "Bag":
        """Go on to the children of the selected patches, at the next magnification.

        Args:
            select: each row chooses a patch (one-hot), or mixes several (a convex mixture);
                the children of a row are the same mixture of the children.
        """


@runtime_checkable
class Rows(Protocol):
    """A table of feature rows that gives those asked for; a tensor is one."""

    @property
    def shape(self) -> torch.Size:
        """Rows and features per row."""

    def __getitem__(self, rows: Int64[Tensor, " n"], /) -> Tensor:
        """Give these rows."""


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

    def apply(self, blocks: Float[Tensor, "b d"]) -> Float[Tensor, "s d"]:
        """Mix blocks into slots."""
        mixed = blocks.new_zeros(self.slots, blocks.shape[1])
        return mixed.index_add(0, self.slot, self.weight[:, None] * blocks[self.block])

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
        ends = torch.searchsorted(self.slot, torch.arange(self.slots).to(slot), right=True)
        starts = torch.cat([ends.new_zeros(1), ends])[:-1]
        counts = (ends - starts)[slot]
        new_slot = torch.arange(len(wanted)).to(slot).repeat_interleave(counts)
        first = counts.cumsum(0) - counts
        entry = (starts[slot] - first)[new_slot] + torch.arange(len(new_slot)).to(slot)
        needed, block = (self.block[entry] * children + child[new_slot]).unique(return_inverse=True)
        return Mixture(new_slot, block, self.weight[entry], len(wanted)), needed


class StoredBag:
    """A slide's patches at nested magnifications, lowest first.

    The children of row n are rows n*c to (n+1)*c-1 of the next level.

    >>> parents, children = torch.zeros(3, 2), torch.arange(12.0).reshape(6, 2)
    >>> third = torch.tensor([[0.0, 0.0, 1.0]])
    >>> StoredBag((parents, children)).zoom(third).features().tolist()
    [[8.0, 9.0], [10.0, 11.0]]

    Args:
        levels: a table of feature rows a magnification.
        valid: per level, False where a patch does not exist; None where all do.

    Raises:
        ValueError: a level's rows are not a whole multiple of those above.
    """

    def __init__(
        self, levels: Sequence[Rows], *, valid: Sequence[Bool[Tensor, " _"]] | None = None
    ) -> None:
        self._levels = tuple(levels)
        self._valid = None if valid is None else tuple(valid)
        counts = [level.shape[0] for level in self._levels]
        for above, below in zip(counts, counts[1:], strict=False):
            if above == 0 or below % above:
                raise ValueError(
                    f"levels of {counts} rows are not nested: {below} is not a whole multiple of "
                    f"{above}; every patch needs the same number of children."
                )
        self._step = 0
        self._rows = torch.arange(counts[0])
        self._chain: tuple[Mixture, ...] = ()
        self._siblings = 1  # rows of a block of `_rows`, which `_chain` mixes as one

    @property
    def rows(self) -> Int64[Tensor, " n"]:
        """Which patches these are; -1 where several are mixed."""
        if not self._chain:
            return self._rows
        return torch.full((self._chain[-1].slots * self._siblings,), -1)

    @property
    def valid(self) -> Bool[Tensor, " n"]:
        """False where a patch does not exist."""
        if self._valid is None:
            return torch.ones(len(self.rows), dtype=torch.bool)
        valid = self._valid[self._step][self._rows]
        if not self._chain:
            return valid
        blocks = valid.view(-1, self._siblings).to(self._chain[0].weight)
        for mixture in self._chain:
            blocks = mixture.apply(blocks)
        return blocks.flatten() > 0

    def features(self) -> Float[Tensor, "n d"]:
        """Give the patches' features."""
        features = self._levels[self._step][self._rows].float()
        if not self._chain:
            return features
        blocks = features.view(-1, self._siblings * features.shape[1])
        for mixture in self._chain:
            blocks = mixture.apply(blocks)
        return blocks.view(-1, features.shape[1])

    def zoom(self, select: Float[Tensor, "k n"]) -> "StoredBag":
        """Go on to the children of the selected patches, at the next magnification."""
        if self._step + 1 == len(self._levels):
            raise ValueError(
                f"the bag holds {len(self._levels)} magnifications and this is the last, so there "
                "is nothing to zoom into; build the model for as many as the bag has."
            )
        slot, row = select.nonzero(as_tuple=True)
        one_hot = not select.requires_grad and bool((select[slot, row] == 1).all())
        zoomed = StoredBag(self._levels, valid=self._valid)
        zoomed._step = self._step + 1
        zoomed._siblings = self._levels[self._step + 1].shape[0] // self._levels[self._step].shape[0]
        if one_hot and not self._chain:
            wanted = row
        else:
            wanted, block = row.unique(return_inverse=True)
            chain = [Mixture(slot, block, select[slot, row], len(select))]
            for mixture in reversed(self._chain):
                lifted, wanted = mixture.lifted(wanted, self._siblings)
                chain.insert(0, lifted)
            zoomed._chain = tuple(chain)
        parents = self._rows[wanted.to(self._rows.device)]
        children = parents[:, None] * zoomed._siblings + torch.arange(zoomed._siblings)
        zoomed._rows = children.flatten()
        return zoomed
