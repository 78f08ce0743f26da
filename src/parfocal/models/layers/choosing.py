"""Choose the patches to zoom into: all that the model selects, or those that a budget allows.

Source: ours. The order of visits is that of the zoom scores, as in the top-K of the methods.
"""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

# Scores of patches, and which of them exist -> one row per selected patch.
TopK = Callable[[Tensor, Tensor | None], Tensor]


@runtime_checkable
class Chooses(Protocol):
    """A bag that decides how many of the patches that a model wants to zoom into are visited."""

    def choose(
        self, topk: TopK, scores: Float[Tensor, " n"], valid: Bool[Tensor, " n"]
    ) -> Float[Tensor, "k n"] | None:
        """Return one row per patch to zoom into; None if no more patches may be visited."""


def choose(
    bag: object, topk: TopK, scores: Float[Tensor, " n"], valid: Bool[Tensor, " n"]
) -> Float[Tensor, "k n"] | None:
    """Return one row per patch to zoom into; None if the model has to answer without zooming.

    A model that zooms calls this in place of its top-K. If it returns None, the model answers from
    the magnifications visited so far.

    Args:
        bag: the bag whose patches are chosen; one that is not limited leaves the choice to `topk`.
        topk: the top-K of the model, with the number of patches as its attribute `k`.
        scores: scores of the patches; those of the highest are visited first.
        valid: whether each patch exists.
    """
    if isinstance(bag, Chooses):
        return bag.choose(topk, scores, valid)
    return topk(scores, valid)


def ranked(scores: Float[Tensor, " n"], valid: Bool[Tensor, " n"]) -> Int64[Tensor, " m"]:
    """Return the positions of the existing patches, most wanted first.

    The first of equal scores is wanted more, as in the top-K.
    """
    scores = scores.detach().masked_fill(~valid.to(scores.device), float("-inf"))
    order = scores.argsort(descending=True, stable=True)
    return order[: int(valid.sum())]


def one_hots(positions: Int64[Tensor, " k"], like: Float[Tensor, " n"]) -> Float[Tensor, "k n"]:
    """Return one one-hot row per position, in ascending order, as a top-K does."""
    rows = positions.sort().values.to(like.device)
    select = torch.zeros(len(rows), len(like), dtype=like.dtype, device=like.device)
    return select.scatter_(1, rows[:, None], 1.0)
