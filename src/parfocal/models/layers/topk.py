"""The K highest scores, without noise."""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn


class TopK(nn.Module):
    """Select the K highest scores, as one-hot rows in the order of their positions.

    The first of equal scores wins. The selection has no gradient.

    Args:
        k: number of scores to select; all if there are fewer.

    Raises:
        ValueError: an argument is invalid.
    """

    def __init__(self, k: int) -> None:
        super().__init__()
        if k < 1:
            raise ValueError(f"k={k}: at least 1 patch has to be selected.")
        self.k = k

    def forward(
        self, scores: Float[Tensor, " n"], valid: Bool[Tensor, " n"] | None = None
    ) -> Float[Tensor, "k n"]:
        """Return one one-hot row per selected score.

        Args:
            scores: scores to select from.
            valid: whether each score may be selected; None if all may.

        Raises:
            ValueError: a score is NaN.
        """
        scores, num_valid = mask_scores(scores.detach(), valid)
        return mean_one_hots(top_indices(scores[None], min(self.k, num_valid)), scores)


def mask_scores(
    scores: Float[Tensor, " n"], valid: Bool[Tensor, " n"] | None
) -> tuple[Float[Tensor, " n"], int]:
    """Set the scores of invalid patches to minus infinity, and count the valid patches.

    Raises:
        ValueError: a score is NaN.
    """
    exists = torch.ones_like(scores, dtype=torch.bool) if valid is None else valid
    scores = scores.masked_fill(~exists.to(scores.device), float("-inf"))
    if scores.isnan().any():
        raise ValueError(
            f"{int(scores.isnan().sum())} of {len(scores)} scores are NaN, so there is no top-K. "
            "Look for NaN in the features; otherwise training diverged: lower the learning rate."
        )
    return scores, int(exists.sum())


def top_indices(scores: Float[Tensor, "s n"], k: int) -> Int64[Tensor, "s k"]:
    """Return the positions, ascending, of the k highest scores of each row.

    The first of equal scores wins.
    """
    lowest = scores.topk(k, dim=1, sorted=False).values.amin(dim=1, keepdim=True)
    selected = scores >= lowest
    if int(selected.sum()) > k * len(scores):
        higher, equal = scores > lowest, scores == lowest
        selected = higher | (equal & (equal.cumsum(1) <= k - higher.sum(1, keepdim=True)))
    return selected.nonzero()[:, 1].view(-1, k)


def mean_one_hots(indices: Int64[Tensor, "s k"], like: Float[Tensor, " n"]) -> Float[Tensor, "k n"]:
    """Return the mean, over samples, of the one-hot matrices of indices.

    Args:
        indices: positions selected in each sample.
        like: a tensor with the length, type and device of the rows.
    """
    rows = indices.T  # k s
    counts = like.new_zeros(len(rows), len(like))
    return counts.scatter_add_(1, rows, like.new_ones(rows.shape)) / len(indices)
