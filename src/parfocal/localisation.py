"""Did the model look where the lesions are? One magnification of one slide, against chance."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from parfocal.bag import Look
from parfocal.dataset.outlines import Outlines
from parfocal.slide.slide import Box


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


def localise(
    look: Look, boxes: Sequence[Box], outlines: Outlines, valid: Bool[np.ndarray, " n"]
) -> Localisation:
    """Compare a look with the lesions of its slide.

    Args:
        look: of a trained model, so that each row is one patch.
        boxes: the patches of `look.rows`, all of one size.
        outlines: the lesions.
        valid: False where a patch does not exist; it is then no candidate.
    """
    corners = np.array([(box.x, box.y) for box in boxes])
    touching = valid & (outlines.overlap(corners[:, 0], corners[:, 1], boxes[0].width) > 0)
    attention = look.attention.detach().cpu().double().numpy()
    chosen = np.zeros(len(boxes), dtype=bool)
    if look.selected is not None:
        chosen[look.selected.cpu().numpy()] = True
    chosen &= valid
    return Localisation(
        candidates=int(valid.sum()),
        touching=int(touching.sum()),
        mass=float(attention[touching].sum() / attention[valid].sum()),
        selected=int(chosen.sum()),
        selected_touching=int((chosen & touching).sum()),
    )
