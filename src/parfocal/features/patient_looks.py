"""The looks of a patient: those of its slides joined, and split by slide again."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate, zip_longest

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from parfocal.prediction import Look, Places

UNSCALED = "class_probability"  # the kind of score that is no share of the look


def join_looks(
    by_slide: Sequence[Sequence[Look]], *, weights: Sequence[float] | None = None
) -> tuple[Look, ...]:
    """Join the looks of several slides, so that each look has the patches of all slides.

    Args:
        by_slide: looks of each slide, lowest magnification first.
        weights: share of each slide in the prediction, by which its scores are multiplied; None if
            they are shares of the patient already.
    """
    joined: list[Look] = []
    visited = [sum(_visited(look) for look in looks) for looks in by_slide]
    first_visits = [0, *accumulate(visited)]
    for looks in zip_longest(*by_slide):
        present = [(slide, look) for slide, look in enumerate(looks) if look is not None]
        above = None if not joined else joined[-1]
        joined.append(_join_look(present, weights, first_visits, above))
    return tuple(joined)


def split_looks(looks: Sequence[Look], count: int) -> list[tuple[Look, ...]]:
    """Split the looks of a patient by slide; the reverse of `join_looks`, with the same scores.

    Args:
        looks: looks with `slides`.
        count: number of slides.
    """
    return [_looks_of_slide(looks, slide) for slide in range(count)]


def _join_look(
    present: Sequence[tuple[int, Look]],
    weights: Sequence[float] | None,
    first_visits: Sequence[int],
    above: Look | None,
) -> Look:
    """Join looks at one magnification."""
    looks = [look for _, look in present]
    scale = [
        1.0 if weights is None or look.score_kind == UNSCALED else weights[slide]
        for slide, look in present
    ]
    starts = [0, *accumulate(len(look.rows) for look in looks)]
    selected = [
        look.selected + start
        for look, start in zip(looks, starts, strict=False)
        if look.selected is not None
    ]
    zoom_attention = [
        look.zoom_attention * factor
        for look, factor in zip(looks, scale, strict=True)
        if look.zoom_attention is not None
    ]
    rounds = [look.rounds for look in looks if look.rounds is not None]
    return Look(
        torch.cat([look.rows for look in looks]),
        torch.cat([look.score * factor for look, factor in zip(looks, scale, strict=True)]),
        torch.cat(selected) if len(selected) == len(looks) else None,
        torch.cat(zoom_attention) if len(zoom_attention) == len(looks) else None,
        _join_places(present, first_visits, above),
        looks[0].score_kind,
        torch.cat([torch.full((len(look.rows),), slide) for slide, look in present]),
        torch.cat(rounds) if len(rounds) == len(looks) else None,
    )


def _join_places(
    present: Sequence[tuple[int, Look]], first_visits: Sequence[int], above: Look | None
) -> Places | None:
    """Join places; None if those of a slide are unknown."""
    places = [look.places for _, look in present if look.places is not None]
    if len(places) < len(present):
        return None
    parents, orders = [], []
    for (slide, _), each in zip(present, places, strict=True):
        if each.parents is not None and above is not None and above.slides is not None:
            parents.append(each.parents + int((above.slides < slide).sum()))
        if each.order is not None:
            visited = each.order >= 0
            orders.append(torch.where(visited, each.order + first_visits[slide], -1))
    return Places(
        torch.cat([each.boxes for each in places]),
        torch.cat([each.mpps for each in places]),
        torch.cat(parents) if len(parents) == len(places) else None,
        torch.cat(orders) if len(orders) == len(places) else None,
    )


def _visited(look: Look) -> int:
    """Return the number of visited patches of a look, if they have an order."""
    order = None if look.places is None else look.places.order
    return 0 if order is None else int((order >= 0).sum())


def _looks_of_slide(looks: Sequence[Look], slide: int) -> tuple[Look, ...]:
    own = [_own(look, slide) for look in looks]
    orders = [
        look.places.order[mask]
        for look, mask in zip(looks, own, strict=True)
        if look.places is not None and look.places.order is not None
    ]
    visits = torch.cat([order[order >= 0] for order in orders]) if orders else torch.zeros(0)
    first = int(visits.min()) if len(visits) else 0
    return tuple(
        _look_of_slide(look, mask, own[step - 1] if step else None, first)
        for step, (look, mask) in enumerate(zip(looks, own, strict=True))
    )


def _look_of_slide(
    look: Look, mask: Bool[Tensor, " n"], above: Bool[Tensor, " m"] | None, first: int
) -> Look:
    """Return the part of a look that is of one slide.

    Args:
        look: look of the patient.
        mask: which of its patches are of the slide.
        above: which patches of the look above are.
        first: lowest order of a visit of the slide.
    """
    places = look.places
    if places is not None:
        parents = None
        if places.parents is not None and above is not None:
            parents = _renumber(places.parents[mask], above)
        order = None if places.order is None else places.order[mask]
        if order is not None:
            order = torch.where(order >= 0, order - first, -1)
        places = Places(places.boxes[mask], places.mpps[mask], parents, order)
    selected = None if look.selected is None else look.selected[mask[look.selected]]
    return replace(
        look,
        rows=look.rows[mask],
        score=look.score[mask],
        selected=None if selected is None else _renumber(selected, mask),
        zoom_attention=None if look.zoom_attention is None else look.zoom_attention[mask],
        places=places,
        slides=None,
        rounds=None if look.rounds is None else look.rounds[mask],
    )


def _own(look: Look, slide: int) -> Bool[Tensor, " n"]:
    assert look.slides is not None
    return look.slides == slide


def _renumber(positions: Int64[Tensor, " k"], kept: Bool[Tensor, " n"]) -> Int64[Tensor, " k"]:
    """Convert positions among all patches to positions among those that are kept."""
    renumbered: Int64[Tensor, " k"] = (kept.cumsum(0) - 1)[positions]
    return renumbered
