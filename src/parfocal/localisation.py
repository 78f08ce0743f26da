"""Did the model look where the lesions are? One magnification of one slide, against chance."""

import math
from dataclasses import dataclass

import numpy as np

from parfocal.bag import Look
from parfocal.dataset.outlines import Outlines


@dataclass(frozen=True)
class Localisation:
    """How one look met the outlined lesions of a slide.

    Args:
        candidates: patches the model could choose from: those it was shown that exist.
        touching: candidates that share any area with a lesion.
        mass: attention on these; of all candidates, 1.
        selected: how many patches were zoomed into; 0 at the last look.
        selected_touching: of these, how many touch.
    """

    candidates: int
    touching: int
    mass: float
    selected: int = 0
    selected_touching: int = 0

    @property
    def chance(self) -> float:
        """The share of candidates that touch: what even attention or a blind choice gives."""
        return self.touching / self.candidates

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
        missing = math.comb(self.candidates - self.touching, self.selected)
        return 1 - missing / math.comb(self.candidates, self.selected)


def localise(look: Look, outlines: Outlines) -> Localisation:
    """Compare a look with the lesions of its slide.

    Args:
        look: of a trained model, with its places; every row is a candidate.
        outlines: the lesions.
    """
    assert look.places is not None
    boxes = look.places.boxes.double().numpy()
    touching = np.zeros(len(boxes), dtype=bool)
    for side in np.unique(boxes[:, 2]):
        alike = boxes[:, 2] == side
        touching[alike] = outlines.overlap(boxes[alike, 0], boxes[alike, 1], float(side)) > 0
    attention = look.attention.detach().cpu().double().numpy()
    chosen = np.zeros(len(boxes), dtype=bool)
    if look.selected is not None:
        chosen[look.selected.cpu().numpy()] = True
    return Localisation(
        candidates=len(boxes),
        touching=int(touching.sum()),
        mass=float(attention[touching].sum() / attention.sum()),
        selected=int(chosen.sum()),
        selected_touching=int((chosen & touching).sum()),
    )
