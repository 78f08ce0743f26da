"""Did the model look where the lesions are? One magnification of one slide, against chance."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float

from parfocal.bag import Look, PixelSource, Places
from parfocal.dataset.outlines import Outlines

BLIND = 48  # places tried blindly, across and down


@dataclass(frozen=True)
class Localization:
    """How one look met the outlined lesions of a slide.

    Args:
        candidates: patches the model could choose from: those it was shown that exist.
        touching: candidates that share any area with a lesion.
        mass: attention on these; of all candidates, 1.
        selected: how many patches were zoomed into; 0 at the last look.
        selected_touching: of these, how many touch.
        blind: the chance of touching where squares are not chosen among candidates; None where
            they are.
    """

    candidates: int
    touching: int
    mass: float
    selected: int = 0
    selected_touching: int = 0
    blind: float | None = None

    @property
    def chance(self) -> float:
        """The share of candidates that touch: what even attention or a blind choice gives."""
        return self.touching / self.candidates if self.blind is None else self.blind

    @property
    def hit(self) -> bool:
        """Tell whether at least one selected patch touches."""
        return self.selected_touching > 0

    @property
    def share(self) -> float:
        """The share of the selected patches that touch."""
        return self.selected_touching / self.selected

    @property
    def chance_of_hit(self) -> float:
        """The chance that of as many different candidates, drawn blindly, at least one touches.

        Hypergeometric: 1 - C(N - M, K) / C(N, K), of N candidates M touching, K drawn.
        """
        if self.blind is not None:
            return 1 - (1 - self.blind) ** self.selected
        missing = math.comb(self.candidates - self.touching, self.selected)
        return 1 - missing / math.comb(self.candidates, self.selected)


def localize(look: Look, outlines: Outlines, *, blind: float | None = None) -> Localization:
    """Compare a look with the lesions of its slide.

    Args:
        look: of a trained model, with its places; every row is a candidate.
        outlines: the lesions.
        blind: see `Localization`.
    """
    boxes, touching = _boxes(look), touching_of(look, outlines)
    attention = look.attention.detach().cpu().double().numpy()
    if look.score_kind == "running":  # an answer, and no measure of how much a square counts
        attention = np.ones(len(boxes))
    chosen = np.zeros(len(boxes), dtype=bool)
    if look.selected is not None:
        chosen[look.selected.cpu().numpy()] = True
    return Localization(
        candidates=len(boxes),
        touching=int(touching.sum()),
        mass=float(attention[touching].sum() / attention.sum()),
        selected=int(chosen.sum()),
        selected_touching=int((chosen & touching).sum()),
        blind=blind,
    )


def joined(looks: Sequence[Look]) -> Look:
    """Join looks that share one probability, as if they were at one magnification."""
    places = [look.places for look in looks if look.places is not None]
    firsts = np.cumsum([0, *(len(look.rows) for look in looks)])
    chosen = [
        look.selected + int(first)
        for look, first in zip(looks, firsts, strict=False)
        if look.selected is not None
    ]
    return Look(
        torch.arange(int(firsts[-1])),
        torch.cat([look.attention for look in looks]),
        torch.cat(chosen),
        places=Places(
            torch.cat([each.boxes for each in places]), torch.cat([each.mpps for each in places])
        ),
    )


def touching_of(look: Look, outlines: Outlines) -> Bool[np.ndarray, " n"]:
    """Tell which patches of a look, with its places, share any area with a lesion."""
    boxes = _boxes(look)
    touching = np.zeros(len(boxes), dtype=bool)
    for side in np.unique(boxes[:, 2]):
        alike = boxes[:, 2] == side
        touching[alike] = outlines.overlap(boxes[alike, 0], boxes[alike, 1], float(side)) > 0
    return touching


def blind_chance(look: Look, outlines: Outlines, source: PixelSource) -> float:
    """Give the chance that squares as large, with tissue in their middle, touch a lesion."""
    width, height = source.size
    x, y = (axis.flatten() for axis in np.meshgrid(*[(np.arange(BLIND) + 0.5) / BLIND] * 2))
    middles = np.stack([x * width, y * height], axis=1)
    cell = np.array([width, height]) / BLIND
    cells = np.concatenate([middles - cell / 2, np.broadcast_to(cell, middles.shape)], axis=1)
    x, y = middles[source.tissue(torch.from_numpy(cells).float()).numpy() > 0].T
    sides = _boxes(look)[:, 2]
    return float(
        np.mean([(outlines.overlap(x - s / 2, y - s / 2, float(s)) > 0).mean() for s in sides])
    )


def _boxes(look: Look) -> Float[np.ndarray, "n 4"]:
    assert look.places is not None
    boxes: Float[np.ndarray, "n 4"] = look.places.boxes.double().numpy()
    return boxes
