"""The inputs of models: the patches of a slide as features, or the slide as pixels.

A `Bag` holds the patches of one slide at one magnification, and zooms into those that a model
selects. `StoredBag` is the implementation, over any table of features: tensors in memory, an HDF5
file, or an encoder that computes features when they are read. A `PixelSource` reads any regions of
one slide, for models that have their own encoder.
"""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from parfocal.mixture import Mixture, unique_children

SIBLINGS_PER_ROW = 4  # siblings mixed as one row: fewer, longer sums that fit the CPU cache

# The position of a magnification and rows of its table -> (column, row) of these patches.
Cells = Callable[[int, Int64[np.ndarray, " n"]], Int64[np.ndarray, "n 2"]]
# The same -> the slide of each of these patches, in the bag of a patient.
SlideIndex = Callable[[int, Int64[np.ndarray, " n"]], Int64[np.ndarray, " n"]]


@runtime_checkable
class Bag(Protocol):
    """The patches of one slide, or of all slides of one patient, at one magnification."""

    @property
    def rows(self) -> Int64[Tensor, " n"]:
        """Row of each patch in the table of its magnification; -1 for a mixture of several."""

    @property
    def valid(self) -> Bool[Tensor, " n"]:
        """Whether each patch exists; False for one outside the scan or without tissue.

        Every patch has the same number of children, so that rows can be computed. Where the slide
        has fewer, the others are placeholders with zero features, which a model has to ignore.
        """

    @property
    def parents(self) -> Int64[Tensor, " n"] | None:
        """Position of each patch's parent in the bag that was zoomed; see `inherited`.

        None at the lowest magnification, and for mixtures.
        """

    def features(self) -> Float[Tensor, "n d"]:
        """Return the features of the patches; zeros for those that do not exist."""

    def cells(self) -> Int64[Tensor, "n 2"]:
        """Return (column, row) of each patch, in the grid of its magnification and slide.

        Patches of different slides can have the same cell, and are no neighbors: a model that
        compares cells has to compare `slides`, too.
        """

    def slides(self) -> Int64[Tensor, " n"]:
        """Return the position of each patch's slide among those of the patient.

        It is 0 everywhere in the bag of one slide. In the bag at the lowest magnification it
        ascends.
        """

    def zoom(self, select: Float[Tensor, "k n"] | None) -> "Bag":
        """Return the children of the selected patches, at the next magnification.

        Args:
            select: one row per selection: a one-hot row selects one patch; a row of several
                weights mixes patches, and its children are the same mixtures of their children.
                None selects all patches.
        """


@runtime_checkable
class PixelSource(Protocol):
    """The pixels of one slide, read on request.

    A model that takes pixels is called with one source per slide and returns logits (B, C).
    """

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in level-0 pixels."""

    @property
    def mpp(self) -> float:
        """Resolution of level 0, in µm per pixel."""

    def request(
        self, boxes: Float[Tensor, "n 4"], size: tuple[int, int], *, step: int | None = None
    ) -> Future[UInt8[Tensor, "n 3 h w"]]:
        """Start to read regions, and return a future with their pixels in 0..255.

        A model requests the regions of all slides of a batch before it waits for the first
        result. A region that was read before is not read again.

        Args:
            boxes: x, y, width and height of each region, in level-0 pixels. Pixels outside the
                scan are white.
            size: height and width of each result, in pixels. A region is shrunk by area averaging
                from the nearest stored level that is sharper, or enlarged bilinearly if the scan
                has fewer pixels.
            step: number of the zoom step, from 0, to which the cost is added; None for an
                overview, which does not count as patches.
        """

    def tissue(self, boxes: Float[Tensor, "n 4"]) -> Float[Tensor, " n"]:
        """Return the fraction of each box that is tissue, 0 outside the scan."""


@dataclass(frozen=True)
class SeparateSlides:
    """The slides of a patient, on which a model is run one by one (late fusion).

    Args:
        slides: bag or pixel source of each slide, at least one.
        fusion: how the predictions are fused, see `parfocal.models.late_fusion`.
        reading: returns a context manager that is entered while the model is run on a slide.
    """

    slides: tuple[Bag | PixelSource, ...]
    fusion: str
    reading: Callable[[int], AbstractContextManager[object]]


ModelInput = Bag | PixelSource | SeparateSlides  # what a model is run on


@runtime_checkable
class FeatureTable(Protocol):
    """A table of features with one row per patch, such as a tensor."""

    @property
    def shape(self) -> torch.Size:
        """Number of rows, and of features per row."""

    def __getitem__(self, rows: Int64[Tensor, " n"], /) -> Tensor:
        """Return the features of some rows."""


class StoredBag:
    """The patches of a slide at nested magnifications, lowest first.

    The children of row n are rows n*c to (n+1)*c-1 of the next table, where c is the number of
    children of each patch.

    >>> parents, children = torch.zeros(3, 2), torch.arange(12.0).reshape(6, 2)
    >>> third = torch.tensor([[0.0, 0.0, 1.0]])
    >>> StoredBag((parents, children)).zoom(third).features().tolist()
    [[8.0, 9.0], [10.0, 11.0]]

    Args:
        tables: one feature table per magnification.
        valid: for each magnification, whether each patch exists; None if all do.
        cells: function that returns (column, row) of patches; None if positions are unknown.
        slides: function that returns the slide of patches; None if all are of one slide.

    Raises:
        ValueError: the number of rows of a table is not a multiple of that of the previous one.
    """

    def __init__(
        self,
        tables: Sequence[FeatureTable],
        *,
        valid: Sequence[Bool[Tensor, " _"]] | None = None,
        cells: Cells | None = None,
        slides: SlideIndex | None = None,
    ) -> None:
        self._tables = tuple(tables)
        self._valid = None if valid is None else tuple(valid)
        self._cells = cells
        self._slides = slides
        counts = [table.shape[0] for table in self._tables]
        for parents, children in pairwise(counts):
            if parents == 0 or children % parents:
                raise ValueError(
                    f"magnifications of {counts} patches are not nested: {children} is not a "
                    f"multiple of {parents}; every patch needs the same number of children."
                )
        self._step = 0  # position of this bag's magnification in the tables
        # Rows of this bag's table, the children of one patch side by side. At the lowest
        # magnification, each row is a group of its own.
        self._siblings = torch.arange(counts[0])[:, None]  # b c
        # One mixture per zoom, first to last: the first mixes the groups of siblings.
        self._mixtures: tuple[Mixture, ...] = ()
        self._parents: Int64[Tensor, " p"] | None = None  # parent of each group of siblings

    @property
    def tables(self) -> tuple[FeatureTable, ...]:
        """Feature table of each magnification, lowest first."""
        return self._tables

    @property
    def rows(self) -> Int64[Tensor, " n"]:
        """Row of each patch in the table of its magnification; -1 for a mixture of several."""
        if not self._mixtures:
            return self._siblings.flatten()
        return torch.full((self._mixtures[-1].num_rows * self._siblings.shape[1],), -1)

    @property
    def valid(self) -> Bool[Tensor, " n"]:
        """Whether each patch exists; a mixture exists if any of its patches does."""
        if self._valid is None:
            return torch.ones(len(self.rows), dtype=torch.bool)
        valid = self._valid[self._step]
        if not self._mixtures:
            return valid[self._siblings.flatten()]
        share = self._mix(valid[:, None].to(self._mixtures[0].weight), self._siblings)
        return share.flatten() > 0

    @property
    def parents(self) -> Int64[Tensor, " n"] | None:
        """Position of each patch's parent in the bag that was zoomed.

        None at the lowest magnification, and for mixtures.
        """
        if self._parents is None or self._mixtures:
            return None
        return self._parents.repeat_interleave(self._siblings.shape[1])

    def features(self) -> Float[Tensor, "n d"]:
        """Return the features of the patches, in 32 bits if they are stored in 16."""
        table = self._tables[self._step]
        if isinstance(table, Tensor):
            # Used in place: a copy of the selected rows could be most of the table.
            if self._step == 0:
                return _at_least_float32(table)
            if self._mixtures and table.dtype == self._mixtures[0].weight.dtype:
                return self._mix(table, self._siblings)
        rows = _at_least_float32(table[self._siblings.flatten()])
        if not self._mixtures:
            return rows
        return self._mix(rows, torch.arange(len(rows)).view_as(self._siblings))

    def cells(self) -> Int64[Tensor, "n 2"]:
        """Return (column, row) of each patch, in the grid of its magnification.

        Raises:
            ValueError: the positions are unknown, or the patches are mixtures.
        """
        if self._mixtures:
            raise ValueError(
                "the patches of the bag are mixtures of several, which have no positions; a model "
                "that needs positions cannot follow a differentiable zoom."
            )
        if self._cells is None:
            raise ValueError(
                "the bag has no positions, and the model needs them; build the bag with cells=..."
            )
        return torch.from_numpy(self._cells(self._step, self.rows.numpy()))

    def slides(self) -> Int64[Tensor, " n"]:
        """Return the position of each patch's slide among those of the patient.

        Raises:
            ValueError: the patches are mixtures of patches of several slides.
        """
        if self._slides is None:
            return torch.zeros(len(self.rows), dtype=torch.int64)
        if self._mixtures:
            raise ValueError(
                "the patches of the bag are mixtures of several, which may be of different slides; "
                "a model that needs the slide of a patch cannot follow a differentiable zoom."
            )
        return torch.from_numpy(self._slides(self._step, self.rows.numpy()))

    def zoom(self, select: Float[Tensor, "k n"] | None) -> "StoredBag":
        """Return the children of the selected patches, at the next magnification.

        Raises:
            ValueError: this is the highest magnification.
        """
        if self._step + 1 == len(self._tables):
            raise ValueError(
                f"the bag has {len(self._tables)} magnifications, and this is the highest; use a "
                "model with as many magnifications as the bag."
            )
        selection = self._select_all() if select is None else _sparse(select)
        one_hot = not selection.weight.requires_grad and bool((selection.weight == 1).all())
        if one_hot and not self._mixtures:
            return self._next(selection.patch, ())
        # From the last zoom back to the first, keep only the patches that the selection mixes.
        num_children = self._siblings.shape[1]
        needed, patch = unique_children(selection.patch, num_children)
        mixtures = [replace(selection, patch=patch)]
        for mixture in reversed(self._mixtures):
            for_children, needed = mixture.select_children(needed, num_children)
            mixtures.insert(0, for_children)
        return self._next(needed, tuple(mixtures))

    def _mix(
        self, table: Float[Tensor, "r d"], siblings: Int64[Tensor, "b c"]
    ) -> Float[Tensor, "n d"]:
        """Mix groups of siblings, with features in `table`, by the selections of all zooms."""
        dim = table.shape[1]
        together = math.gcd(siblings.shape[1], SIBLINGS_PER_ROW)
        table = table.reshape(-1, together * dim)
        children = (siblings[:, ::together] // together).T.to(table.device)
        for mixture in self._mixtures:
            mixed = mixture.apply(table, children)  # c m d
            table = mixed.flatten(0, 1)
            children = torch.arange(len(table), device=table.device).view(len(children), -1)
        return mixed.transpose(0, 1).reshape(-1, dim)

    def _select_all(self) -> Mixture:
        like = self._mixtures[0].weight if self._mixtures else torch.empty(0)
        each = torch.arange(len(self.rows), device=like.device)
        return Mixture(each, each, like.new_ones(len(each)), len(each))

    def _next(self, parents: Int64[Tensor, " p"], mixtures: tuple[Mixture, ...]) -> "StoredBag":
        bag = StoredBag(self._tables, valid=self._valid, cells=self._cells, slides=self._slides)
        bag._step = self._step + 1
        num_children = self._tables[bag._step].shape[0] // self._tables[self._step].shape[0]
        rows = self._siblings.flatten()[parents.cpu()]
        bag._siblings = rows[:, None] * num_children + torch.arange(num_children)
        bag._mixtures = mixtures
        bag._parents = parents.cpu()
        return bag


class ExhaustiveBag:
    """A bag that zooms into every patch, whichever patches a model selects.

    Args:
        bag: the bag of one slide.
    """

    def __init__(self, bag: Bag) -> None:
        self._bag = bag

    @property
    def rows(self) -> Int64[Tensor, " n"]:
        """Row numbers of the patches in the grid."""
        return self._bag.rows

    @property
    def valid(self) -> Bool[Tensor, " n"]:
        """False where a patch does not exist."""
        return self._bag.valid

    @property
    def parents(self) -> Int64[Tensor, " n"] | None:
        """Position of each patch's parent in the bag that was zoomed; see `Bag`."""
        return self._bag.parents

    def features(self) -> Float[Tensor, "n d"]:
        """Return the features of the patches."""
        return self._bag.features()

    def cells(self) -> Int64[Tensor, "n 2"]:
        """Return (column, row) of the patches."""
        return self._bag.cells()

    def slides(self) -> Int64[Tensor, " n"]:
        """Return the slide of each patch; see `Bag`."""
        return self._bag.slides()

    def zoom(self, select: Float[Tensor, "k n"] | None) -> "ExhaustiveBag":
        """Return the children of all patches; the selection is ignored."""
        return ExhaustiveBag(self._bag.zoom(None))


def inherited(
    states: Float[Tensor, "n d"], select: Float[Tensor, "k n"], children: Bag
) -> Float[Tensor, "m d"]:
    """Return, for each child, the state of its parent.

    The state of the parent of a mixture is the same mixture of the states of its patches.

    Args:
        states: states of the patches of the bag that was zoomed.
        select: the selection that was zoomed into.
        children: the bag that zooming returned.
    """
    if children.parents is not None:
        return states[children.parents.to(states.device)]
    mixed = select.to(states.dtype) @ states  # k d
    return mixed.repeat_interleave(len(children.rows) // len(mixed), dim=0)


def _sparse(select: Float[Tensor, "k n"]) -> Mixture:
    """Return the nonzero entries of a dense matrix."""
    row, patch = select.nonzero(as_tuple=True)
    return Mixture(row, patch, select[row, patch], len(select))


def _at_least_float32(features: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Convert half precision, in which features are stored, to single precision."""
    return features.to(torch.promote_types(features.dtype, torch.float32))
