"""How many patches a slide of a data set has, counted in a few of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from parfocal.dataset.readers.listing import Row
from parfocal.features.header import SlideSettings
from parfocal.reproduce.experiments import Patches
from parfocal.slide.errors import SlideError
from parfocal.slide.slide import open_slide

SAMPLED = 3  # slides, evenly spaced in the cohort


@dataclass(frozen=True)
class Counted:
    """Patches of a slide, on average.

    Args:
        by_magnification: lowest first.
        said_by: in words.
    """

    by_magnification: dict[float, float]
    said_by: str

    @property
    def told(self) -> str:
        """Say both."""
        counts = [f"{count:,.0f} at {m:g}x" for m, count in self.by_magnification.items()]
        return f"Patches of a slide: {', '.join(counts)}; {self.said_by}."


def count_patches(rows: Sequence[Row], settings: SlideSettings, published: Patches) -> Counted:
    """Find the tissue of a few slides and lay patches over it.

    Args:
        rows: of the cohort.
        settings: which patches.
        published: taken where none of these slides can be read.
    """
    counts, reasons = [], []
    for place in np.linspace(0, len(rows) - 1, min(SAMPLED, len(rows))).round().astype(int):
        try:
            with open_slide(rows[place].path, mpp=rows[place].mpp) as slide:
                grid = settings.grid(slide)
        except SlideError as error:
            reasons.append(str(error))
        else:
            steps = range(len(grid.mpps))
            counts.append([int(np.count_nonzero(grid.valid(step))) for step in steps])
    if not counts:
        said_by = f"the paper's, as none of {len(reasons)} slides tried can be read ({reasons[0]})"
        return Counted(_scaled(published, settings.magnifications), said_by)
    means = np.mean(counts, axis=0).tolist()
    said_by = f"counted in {len(counts)} of {len(rows)} slides"
    return Counted(dict(zip(settings.magnifications, means, strict=True)), said_by)


def _scaled(published: Patches, magnifications: Sequence[float]) -> dict[float, float]:
    """Reckon with the same tissue at other magnifications."""
    return {m: published.count * (m / published.magnification) ** 2 for m in magnifications}
