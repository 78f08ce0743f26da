"""What a model is given, and what it answers.

A bag holds one slide's patches at one magnification, and zooms into those a model selects.
`StoredBag` is that over any table of nested rows: tensors in memory, an HDF5 file, or rows
that are read and encoded when asked for. The mathematics of zooming lives here, once.
A pixel source gives any regions of one slide as pixels, to models that encode by themselves.
"""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from itertools import pairwise
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from parfocal.mixture import Mixture, distinct

TOGETHER = 4  # children mixed as one row: fewer and longer sums, that still fit the cache


# A level and some of its rows -> their (column, row).
Cells = Callable[[int, Int64[np.ndarray, " n"]], Int64[np.ndarray, "n 2"]]


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

    def cells(self) -> Int64[Tensor, "n 2"]:
        """Give (column, row) of the patches, on the lattice of their magnification."""

    def zoom(self, select: Float[Tensor, "k n"] | None) -> "Bag":
        """Go on to the children of the selected patches, at the next magnification.

        Args:
            select: each row chooses a patch (one-hot), or mixes several (a convex mixture);
                the children of a row are the same mixture of the children. None for all patches.
        """


@runtime_checkable
class PixelSource(Protocol):
    """One slide's pixels, read only when asked.

    A model that takes them is called with several sources, and answers with logits (B, C).
    """

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in level-0 pixels."""

    @property
    def mpp(self) -> float:
        """Microns per level-0 pixel."""

    def request(
        self, boxes: Float[Tensor, "n 4"], size: tuple[int, int], *, step: int | None = None
    ) -> Future[UInt8[Tensor, "n 3 h w"]]:
        """Begin to read regions, and return at once; `.result()` waits for the pixels.

        A model asks for all slides of its batch, then waits. A region asked for again is not
        read again.

        Args:
            boxes: x, y, width and height, in level-0 pixels. Outside the scan all is white.
            size: height and width of each result: areas are averaged, from the nearest stored
                level that is sharper; where the scan has fewer pixels, it is enlarged bilinearly.
            step: on the bill, 0 the first; None for an overview, which is no patch.
        """

    def tissue(self, boxes: Float[Tensor, "n 4"]) -> Float[Tensor, " n"]:
        """Give the share of each box that is tissue; outside the scan there is none."""


@runtime_checkable
class Rows(Protocol):
    """A table of feature rows that gives those asked for; a tensor is one."""

    @property
    def shape(self) -> torch.Size:
        """Rows and features per row."""

    def __getitem__(self, rows: Int64[Tensor, " n"], /) -> Tensor:
        """Give these rows."""


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
        cells: gives (column, row) of rows of a level; None where the patches have no places.

    Raises:
        ValueError: a level's rows are not a whole multiple of those above.
    """

    def __init__(
        self,
        levels: Sequence[Rows],
        *,
        valid: Sequence[Bool[Tensor, " _"]] | None = None,
        cells: Cells | None = None,
    ) -> None:
        self._levels = tuple(levels)
        self._valid = None if valid is None else tuple(valid)
        self._cells = cells
        counts = [level.shape[0] for level in self._levels]
        for above, below in pairwise(counts):
            if above == 0 or below % above:
                raise ValueError(
                    f"levels of {counts} rows are not nested: {below} is not a whole multiple of "
                    f"{above}; every patch needs the same number of children."
                )
        self._step = 0
        self._children = torch.arange(counts[0])[:, None]  # b c: rows, in blocks of siblings
        self._chain: tuple[Mixture, ...] = ()  # mixes blocks into slots, first to last

    @property
    def rows(self) -> Int64[Tensor, " n"]:
        """Which patches these are; -1 where several are mixed."""
        if not self._chain:
            return self._children.flatten()
        return torch.full((self._chain[-1].slots * self._children.shape[1],), -1)

    @property
    def valid(self) -> Bool[Tensor, " n"]:
        """False where a patch does not exist."""
        if self._valid is None:
            return torch.ones(len(self.rows), dtype=torch.bool)
        valid = self._valid[self._step]
        if not self._chain:
            return valid[self._children.flatten()]
        share = self._mixed(valid[:, None].to(self._chain[0].weight), self._children)
        return share.flatten() > 0

    def features(self) -> Float[Tensor, "n d"]:
        """Give the patches' features."""
        level = self._levels[self._step]
        if isinstance(level, Tensor):
            # Used where it lies: a copy of the rows wanted could be most of the level.
            if self._step == 0:
                return _single(level)
            if self._chain and level.dtype == self._chain[0].weight.dtype:
                return self._mixed(level, self._children)
        rows = _single(level[self._children.flatten()])
        if not self._chain:
            return rows
        return self._mixed(rows, torch.arange(len(rows)).view_as(self._children))

    def _mixed(
        self, rows: Float[Tensor, "r d"], children: Int64[Tensor, "b c"]
    ) -> Float[Tensor, "n d"]:
        dim = rows.shape[1]
        together = math.gcd(children.shape[1], TOGETHER)
        rows = rows.reshape(-1, together * dim)
        at = (children[:, ::together] // together).T.to(rows.device)
        for mixture in self._chain:
            mixed = mixture.apply(rows, at)  # c s d
            rows = mixed.flatten(0, 1)
            at = torch.arange(len(rows), device=rows.device).view(len(at), -1)
        return mixed.transpose(0, 1).reshape(-1, dim)

    def cells(self) -> Int64[Tensor, "n 2"]:
        """Give (column, row) of the patches.

        Raises:
            ValueError: they have no places, or several are mixed into one.
        """
        if self._cells is None or self._chain:
            reason = "mixtures of several" if self._chain else "given without places"
            raise ValueError(
                f"the patches of this bag are {reason}, so they lie nowhere; a model that asks "
                "where needs patches of a slide, each by itself."
            )
        return torch.from_numpy(self._cells(self._step, self.rows.numpy()))

    def zoom(self, select: Float[Tensor, "k n"] | None) -> "StoredBag":
        """Go on to the children of the selected patches, at the next magnification."""
        if self._step + 1 == len(self._levels):
            raise ValueError(
                f"the bag holds {len(self._levels)} magnifications and this is the last, so there "
                "is nothing to zoom into; build the model for as many as the bag has."
            )
        chosen = self._all() if select is None else _entries(select)
        one_hot = not chosen.weight.requires_grad and bool((chosen.weight == 1).all())
        if one_hot and not self._chain:
            return self._below(chosen.block, ())
        needed, block = distinct(chosen.block, self._children.shape[1])
        chain = [replace(chosen, block=block)]
        for mixture in reversed(self._chain):
            lifted, needed = mixture.lifted(needed, self._children.shape[1])
            chain.insert(0, lifted)
        return self._below(needed, tuple(chain))

    def _all(self) -> Mixture:
        """Choose each patch once."""
        like = self._chain[0].weight if self._chain else torch.empty(0)
        each = torch.arange(len(self.rows), device=like.device)
        return Mixture(each, each, like.new_ones(len(each)), len(each))

    def _below(self, parents: Int64[Tensor, " p"], chain: tuple[Mixture, ...]) -> "StoredBag":
        below = StoredBag(self._levels, valid=self._valid, cells=self._cells)
        below._step = self._step + 1
        siblings = self._levels[below._step].shape[0] // self._levels[self._step].shape[0]
        blocks = self._children.flatten()[parents.cpu()]
        below._children = blocks[:, None] * siblings + torch.arange(siblings)
        below._chain = chain
        return below


def _entries(select: Float[Tensor, "k n"]) -> Mixture:
    """Keep what is not zero of a dense matrix."""
    slot, row = select.nonzero(as_tuple=True)
    return Mixture(slot, row, select[slot, row], len(select))


def _single(rows: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Widen half precision, in which features are stored, for computing."""
    return rows.to(torch.promote_types(rows.dtype, torch.float32))
