"""Join the looks of several models at one slide into the looks of one; scores are means."""

from collections.abc import Sequence
from itertools import zip_longest

import torch

from parfocal.prediction import OFF_GRID, Look, Places


def mean_looks(by_member: Sequence[Sequence[Look]]) -> tuple[Look, ...] | None:
    """Join the looks of several models, step by step.

    A patch that a model did not visit has a score of 0 there, so that the scores of a step still
    sum to 1. A patch is selected or visited if any model selects or visits it.

    Args:
        by_member: looks of each model at the same slide, with their places.

    Returns:
        The looks; None for squares of any place and size, which models do not have in common.
    """
    count = len(by_member)
    joined = []
    for looks in zip_longest(*by_member):
        present = [look for look in looks if look is not None]
        if any(look.places is None or look.score_kind in OFF_GRID for look in present):
            return None
        joined.append(_mean_look(present, count))
    return tuple(joined)


def _mean_look(looks: Sequence[Look], count: int) -> Look:
    """Join looks at one magnification of a grid."""
    rows, member = torch.unique(torch.cat([look.rows.cpu() for look in looks]), return_inverse=True)
    score = torch.zeros(len(rows), dtype=torch.float64)
    score.index_add_(0, member, torch.cat([look.score.double().cpu() for look in looks]))
    boxes, mpps = torch.zeros(len(rows), 4), torch.zeros(len(rows))
    selected, visited = torch.zeros(2, len(rows), dtype=torch.bool)
    start = 0
    for look in looks:
        own = member[start : start + len(look.rows)]
        start += len(look.rows)
        assert look.places is not None
        boxes[own], mpps[own] = look.places.boxes.float(), look.places.mpps.float()
        order = look.places.order
        visited[own] |= torch.ones(len(own), dtype=torch.bool) if order is None else order >= 0
        if look.selected is not None:
            selected[own[look.selected.cpu()]] = True
    is_last = all(look.selected is None for look in looks)
    return Look(
        rows,
        (score / count).float(),
        None if is_last else selected.nonzero()[:, 0],
        places=Places(boxes, mpps, order=torch.where(visited, visited.cumsum(0) - 1, -1)),
        score_kind=looks[0].score_kind,
    )
