"""Turn the looks of a prediction into the regions of its record."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count

from parfocal.explain.record_parts import Region
from parfocal.prediction import Look


def mpps_from_looks(looks: Sequence[Look]) -> tuple[float, ...]:
    """Return the µm per pixel of each look, as the median over its patches."""
    return tuple(look.places.mpps.median().item() for look in looks if look.places is not None)


def regions_from_looks(looks: Sequence[Look]) -> Iterator[Region]:
    """Yield a region for each patch of each look.

    Args:
        looks: looks with places, lowest magnification first.
    """
    visits = count()
    for step, look in enumerate(looks):
        yield from _regions_of_look(step, look, looks[step - 1] if step else None, visits)


def _regions_of_look(
    step: int, look: Look, above: Look | None, visits: Iterator[int]
) -> Iterator[Region]:
    places = look.places
    assert places is not None
    selected = set() if look.selected is None else set(look.selected.tolist())
    orders = _orders(look, visits)
    rounds = None if look.rounds is None else look.rounds.tolist()
    parents = _parents(look, above, step)
    zoom_attention = None if look.zoom_attention is None else look.zoom_attention.tolist()
    scores, boxes, mpps = look.score.tolist(), places.boxes.tolist(), places.mpps.tolist()
    for index, row in enumerate(look.rows.tolist()):
        x, y, width, height = boxes[index]
        yield Region(
            id=f"{step}-{row}",
            step=step,
            x=x,
            y=y,
            width=width,
            height=height,
            mpp=mpps[index],
            score=scores[index],
            score_kind=look.score_kind,
            parent=parents[index],
            selected=index in selected,
            order=orders[index],
            zoom_attention=None if zoom_attention is None else zoom_attention[index],
            round=None if rounds is None else rounds[index],
        )


def _orders(look: Look, visits: Iterator[int]) -> list[int | None]:
    """Return the position of each patch in the order of visits; None if it was not visited."""
    assert look.places is not None
    if look.places.order is None:
        orders: list[int | None] = [None] * len(look.rows)
        for index in _by_round(look):
            orders[index] = next(visits)
        return orders
    return [None if order < 0 else order for order in look.places.order.tolist()]


def _by_round(look: Look) -> list[int]:
    """Return the positions of the patches in the order of their rounds."""
    if look.rounds is None:
        return list(range(len(look.rows)))
    return look.rounds.argsort(stable=True).tolist()


def _parents(look: Look, above: Look | None, step: int) -> list[str | None]:
    """Return the id of the patch that was zoomed into to find each patch."""
    assert look.places is not None
    if above is None or look.places.parents is None:
        return [None] * len(look.rows)
    return [f"{step - 1}-{row}" for row in above.rows[look.places.parents].tolist()]


def with_running_probabilities(
    regions: Sequence[Region], running: Sequence[Mapping[str, float]]
) -> Iterator[Region]:
    """Yield the regions, the last visited ones with the class probabilities after each of them.

    Args:
        regions: all regions of a prediction.
        running: class probabilities by label after each of the last `len(running)` visits, in the
            order of visits.
    """
    first = sum(region.visited for region in regions) - len(running)
    for region in regions:
        index = -1 if region.order is None else region.order - first
        yield replace(region, probabilities=dict(running[index])) if index >= 0 else region


def with_round_probabilities(
    regions: Sequence[Region], rounds: Sequence[Mapping[str, float]]
) -> Iterator[Region]:
    """Yield the regions, the last one of each round with the class probabilities after the round.

    Args:
        regions: all regions of a prediction.
        rounds: class probabilities by label after each round.
    """
    last: dict[int, Region] = {}
    for region in sorted(regions, key=lambda each: -1 if each.order is None else each.order):
        if region.round is not None:
            last[region.round] = region
    ids = {region.id: number for number, region in last.items()}
    for region in regions:
        number = ids.get(region.id, len(rounds))
        known = number < len(rounds) and len(rounds[number]) > 0
        yield replace(region, probabilities=dict(rounds[number])) if known else region
