"""Compare the patches that a model visited with outlined lesions, and both with chance."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float

from parfocal.bag import PixelSource
from parfocal.dataset.outlines import Outlines
from parfocal.prediction import Look, Places

GRID_SIZE = 48  # positions across and down at which `random_touch_rate` places squares


@dataclass(frozen=True)
class Localization:
    """How one look agrees with the outlined lesions of a slide.

    Args:
        candidates: number of patches that the model could select from.
        touching: number of candidates that overlap a lesion.
        mass: share of the attention that is on these patches, 0 to 1.
        selected: number of patches that were zoomed into; 0 at the last look.
        selected_touching: number of selected patches that overlap a lesion.
        random_rate: probability that a randomly placed square overlaps a lesion, for squares that
            are not selected among candidates; else None.
    """

    candidates: int
    touching: int
    mass: float
    selected: int = 0
    selected_touching: int = 0
    random_rate: float | None = None

    @property
    def chance(self) -> float:
        """Expected `mass` of uniform attention, and expected `share` of a random selection."""
        return self.touching / self.candidates if self.random_rate is None else self.random_rate

    @property
    def hit(self) -> bool:
        """Whether at least one selected patch overlaps a lesion."""
        return self.selected_touching > 0

    @property
    def share(self) -> float:
        """Share of the selected patches that overlap a lesion."""
        return self.selected_touching / self.selected

    @property
    def chance_of_hit(self) -> float:
        """Probability of a hit if the same number of candidates is selected at random.

        Hypergeometric: 1 - C(N - M, K) / C(N, K), with N candidates, M of them touching, and K
        selected.
        """
        if self.random_rate is not None:
            return 1 - (1 - self.random_rate) ** self.selected
        misses = math.comb(self.candidates - self.touching, self.selected)
        return 1 - misses / math.comb(self.candidates, self.selected)


def localize(look: Look, outlines: Outlines, *, random_rate: float | None = None) -> Localization:
    """Compare a look with the lesions of its slide.

    Args:
        look: a look of a trained model, with its places; every row is a candidate.
        outlines: the lesions.
        random_rate: see `Localization`.
    """
    boxes, touching = _boxes(look), touching_mask(look, outlines)
    attention = look.score.detach().cpu().double().numpy()
    if look.score_kind == "class_probability":  # not a measure of how much a square counts
        attention = np.ones(len(boxes))
    selected = np.zeros(len(boxes), dtype=bool)
    if look.selected is not None:
        selected[look.selected.cpu().numpy()] = True
    return Localization(
        candidates=len(boxes),
        touching=int(touching.sum()),
        mass=float(attention[touching].sum() / attention.sum()),
        selected=int(selected.sum()),
        selected_touching=int((selected & touching).sum()),
        random_rate=random_rate,
    )


def join_looks(looks: Sequence[Look]) -> Look:
    """Concatenate looks that share one sampling probability into a single look."""
    places = [look.places for look in looks if look.places is not None]
    offsets = np.cumsum([0, *(len(look.rows) for look in looks)])
    selected = [
        look.selected + int(offset)
        for look, offset in zip(looks, offsets, strict=False)
        if look.selected is not None
    ]
    return Look(
        torch.arange(int(offsets[-1])),
        torch.cat([look.score for look in looks]),
        torch.cat(selected),
        places=Places(
            torch.cat([each.boxes for each in places]), torch.cat([each.mpps for each in places])
        ),
    )


def touching_mask(look: Look, outlines: Outlines) -> Bool[np.ndarray, " n"]:
    """Return which patches of a look overlap a lesion.

    Args:
        look: a look with its places.
        outlines: the lesions.
    """
    boxes = _boxes(look)
    touching = np.zeros(len(boxes), dtype=bool)
    for side in np.unique(boxes[:, 2]):
        same = boxes[:, 2] == side
        touching[same] = outlines.overlap(boxes[same, 0], boxes[same, 1], float(side)) > 0
    return touching


def random_touch_rate(look: Look, outlines: Outlines, source: PixelSource) -> float:
    """Compute how often squares of the look's sizes, placed at random on tissue, touch a lesion.

    The squares are centered on a regular grid, where there is tissue.

    Args:
        look: a look with its places.
        outlines: the lesions.
        source: pixels of the slide, for its size and tissue.
    """
    width, height = source.size
    steps = (np.arange(GRID_SIZE) + 0.5) / GRID_SIZE
    x, y = (axis.flatten() for axis in np.meshgrid(steps, steps))
    centers = np.stack([x * width, y * height], axis=1)
    cell = np.array([width, height]) / GRID_SIZE
    cells = np.concatenate([centers - cell / 2, np.broadcast_to(cell, centers.shape)], axis=1)
    x, y = centers[source.tissue(torch.from_numpy(cells).float()).numpy() > 0].T
    rates = [
        (outlines.overlap(x - side / 2, y - side / 2, float(side)) > 0).mean()
        for side in _boxes(look)[:, 2]
    ]
    return float(np.mean(rates))


def _boxes(look: Look) -> Float[np.ndarray, "n 4"]:
    assert look.places is not None
    boxes: Float[np.ndarray, "n 4"] = look.places.boxes.double().numpy()
    return boxes
