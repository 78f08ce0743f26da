"""Places where a model points to lesions, compared with outlined lesions as in CAMELYON16.

Lesions closer than 75 µm are one lesion, and lesions whose longest side is below 275 µm (isolated
tumor cells, with that margin) do not count: they are neither found nor missed.

Source: the evaluation of CAMELYON16 (https://camelyon16.grand-challenge.org/Evaluation/).
"""

from dataclasses import dataclass

import numpy as np
import shapely
from jaxtyping import Float
from numpy.typing import NDArray

from parfocal.dataset.outlines import Outlines
from parfocal.prediction import Look

MERGED_UM = 75.0  # outlines closer than this are one lesion
SMALLEST_UM = 275.0  # longest side of a lesion that counts
NEIGHBORS = 1.5  # sides of a patch within which only the best detection is kept
OUTSIDE, IGNORED = -1, -2  # as in `parfocal.metrics.froc`


@dataclass(frozen=True)
class Detections:
    """The detections on one slide, most confident first.

    Args:
        lesions: number of lesions that count.
        confidences: score of each detection, as a share of the highest on the slide.
        hits: index of the lesion in which each detection lies; -1 for none, -2 for one that does
            not count.
    """

    lesions: int
    confidences: tuple[float, ...]
    hits: tuple[int, ...]


def detect(look: Look, outlines: Outlines, mpp: float) -> Detections:
    """Return the detections of a look: the centers of its patches, without close neighbors.

    Args:
        look: the look at the highest magnification, with its places.
        outlines: the lesions of the slide; none for a slide without lesions.
        mpp: µm per level-0 pixel.
    """
    lesions, counted = _lesions(outlines, mpp)
    centers, scores = _peaks(look)
    if not len(scores):
        return Detections(int(counted.sum()), (), ())
    number = np.cumsum(counted) - 1
    hits = np.full(len(centers), OUTSIDE)
    point, lesion = shapely.STRtree(lesions).query(shapely.points(centers), predicate="intersects")
    # A point in two lesions, which are then both ignored or overlap, belongs to the first.
    for place, index in zip(point[::-1], lesion[::-1], strict=True):
        hits[place] = number[index] if counted[index] else IGNORED
    shares = scores / scores.max()
    return Detections(int(counted.sum()), tuple(shares.tolist()), tuple(hits.tolist()))


def _lesions(outlines: Outlines, mpp: float) -> tuple[NDArray[np.object_], NDArray[np.bool_]]:
    """Return the lesions of a slide, and which of them count."""
    if not outlines.polygons:
        return np.empty(0, dtype=object), np.empty(0, dtype=bool)
    margin = MERGED_UM / mpp / 2
    valid = shapely.make_valid(outlines.shapes, method="structure", keep_collapsed=False)
    grown = shapely.get_parts(shapely.union_all(shapely.buffer(valid, margin)))
    sides = [_longest_side(lesion) for lesion in grown]
    return grown, np.array([side * mpp >= SMALLEST_UM for side in sides], dtype=bool)


def _longest_side(lesion: shapely.Geometry) -> float:
    """Return the longer side of the smallest rectangle around a lesion, in level-0 pixels."""
    corners = np.array(shapely.minimum_rotated_rectangle(lesion).exterior.coords)
    return float(np.linalg.norm(np.diff(corners[:3], axis=0), axis=1).max())


def _peaks(look: Look) -> tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, " n"]]:
    """Return the centers and scores of visited patches that have no better neighbor."""
    assert look.places is not None
    boxes, scores = (
        each.detach().cpu().double().numpy() for each in (look.places.boxes, look.score)
    )
    if look.places.order is not None:
        visited = (look.places.order >= 0).cpu().numpy()
        boxes, scores = boxes[visited], scores[visited]
    keep = scores > 0
    boxes, scores = boxes[keep], scores[keep]
    centers = boxes[:, :2] + boxes[:, 2:] / 2
    order = np.argsort(-scores, kind="stable")
    centers, scores, sides = centers[order], scores[order], boxes[order, 2]
    open_to = np.ones(len(centers), dtype=bool)
    chosen = []
    for place in range(len(centers)):
        if open_to[place]:
            chosen.append(place)
            distance = np.abs(centers - centers[place]).max(axis=1)
            open_to &= distance > NEIGHBORS * sides[place]
    return centers[chosen], scores[chosen]
