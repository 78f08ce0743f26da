"""A bag that decides which of the patches that a model wants to zoom into are visited.

The model is run again after each round, on all patches visited so far. Patches that were visited
before are not read again, and the last run sees the same rows in the same order as a model without
limits, so that its answer is the same, bit by bit.
"""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from parfocal.bag import Bag
from parfocal.models.layers.choosing import TopK


@runtime_checkable
class Limit(Protocol):
    """Decides which patches are visited."""

    def choose(
        self, bag: Bag, step: int, topk: TopK, scores: Tensor, valid: Tensor
    ) -> Tensor | None:
        """Return one row per patch to zoom into; None if the model has to answer now.

        Args:
            bag: the bag whose patches are chosen.
            step: index of its magnification, 0 for the lowest.
            topk: the top-K of the model.
            scores: scores of the patches.
            valid: whether each patch exists.
        """


class Visited:
    """What the runs of a model have read of one slide.

    Args:
        num_existing: for each step, the number of existing patches that the last run was given.
    """

    def __init__(self) -> None:
        self.num_existing: dict[int, int] = {}
        self._features: dict[int, tuple[Tensor, Tensor]] = {}

    def features(self, step: int, bag: Bag) -> Float[Tensor, "n d"]:
        """Return the features of a bag; those of the same rows are not read a second time."""
        rows = bag.rows
        self.num_existing[step] = int(bag.valid.sum())
        if step not in self._features or not torch.equal(self._features[step][0], rows):
            self._features[step] = (rows, bag.features())
        return self._features[step][1]


class LimitedBag:
    """A bag that zooms only as far as a limit allows.

    Args:
        bag: the bag of one slide.
        limit: decides which patches are visited.
        visited: keeps what was read.
        step: index of the magnification of the bag.
    """

    def __init__(self, bag: Bag, limit: Limit, visited: Visited, step: int = 0) -> None:
        self._bag, self._limit, self._visited, self._step = bag, limit, visited, step

    @property
    def rows(self) -> Int64[Tensor, " n"]:
        """Row numbers of the patches; see `Bag`."""
        return self._bag.rows

    @property
    def valid(self) -> Bool[Tensor, " n"]:
        """Whether each patch exists; see `Bag`."""
        return self._bag.valid

    @property
    def parents(self) -> Int64[Tensor, " n"] | None:
        """Position of each patch's parent; see `Bag`."""
        return self._bag.parents

    def features(self) -> Float[Tensor, "n d"]:
        """Return the features of the patches, which are read once."""
        return self._visited.features(self._step, self._bag)

    def cells(self) -> Int64[Tensor, "n 2"]:
        """Return (column, row) of the patches; see `Bag`."""
        return self._bag.cells()

    def slides(self) -> Int64[Tensor, " n"]:
        """Return the slide of each patch; see `Bag`."""
        return self._bag.slides()

    def zoom(self, select: Float[Tensor, "k n"] | None) -> "LimitedBag":
        """Return the children of the selected patches; see `Bag`."""
        return LimitedBag(self._bag.zoom(select), self._limit, self._visited, self._step + 1)

    def choose(
        self, topk: TopK, scores: Float[Tensor, " n"], valid: Bool[Tensor, " n"]
    ) -> Float[Tensor, "k n"] | None:
        """Return one row per patch to zoom into; None if the model has to answer now."""
        return self._limit.choose(self._bag, self._step, topk, scores, valid)


def existing_children(bag: Bag) -> Int64[Tensor, " n"]:
    """Return how many children of each patch of a bag exist. Nothing is read."""
    return bag.zoom(None).valid.view(len(bag.rows), -1).sum(dim=1)


def random_scores(scores: Float[Tensor, " n"], seed: int, step: int) -> Float[Tensor, " n"]:
    """Return scores that put the patches into a random order, the same for each run of a model."""
    generator = torch.Generator().manual_seed((seed << 8) + step)
    return torch.rand(len(scores), generator=generator).to(scores)
