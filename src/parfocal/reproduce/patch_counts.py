"""Count the patches of a few slides of a data set."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from parfocal.dataset.readers.listing import Row
from parfocal.features.header import SlideSettings
from parfocal.reproduce.experiments import PublishedPatches
from parfocal.slide.errors import SlideError
from parfocal.slide.slide import open_slide

SAMPLED_SLIDES = 3  # evenly spaced in the cohort


@dataclass(frozen=True)
class PatchCounts:
    """Mean number of patches per slide.

    Args:
        by_magnification: mean number of patches by magnification, lowest first.
        source: where the numbers come from, as text.
    """

    by_magnification: dict[float, float]
    source: str

    @property
    def summary(self) -> str:
        """The counts and their source, in one sentence."""
        counts = [f"{count:,.0f} at {m:g}x" for m, count in self.by_magnification.items()]
        return f"Patches per slide: {', '.join(counts)}; {self.source}."


def count_patches(
    rows: Sequence[Row], settings: SlideSettings, published: PublishedPatches
) -> PatchCounts:
    """Count the patches of a few slides.

    Args:
        rows: slides of the cohort.
        settings: settings of the patch grid.
        published: the paper's number, used if none of the slides can be read.
    """
    counts, reasons = [], []
    for index in np.linspace(0, len(rows) - 1, min(SAMPLED_SLIDES, len(rows))).round().astype(int):
        try:
            with open_slide(rows[index].path, mpp=rows[index].mpp) as slide:
                grid = settings.grid(slide)
        except SlideError as error:
            reasons.append(str(error))
        else:
            steps = range(len(grid.mpps))
            counts.append([int(np.count_nonzero(grid.valid(step))) for step in steps])
    if not counts:
        source = f"from the paper, because none of {len(reasons)} slides can be read ({reasons[0]})"
        return PatchCounts(_scale(published, settings.magnifications), source)
    means = np.mean(counts, axis=0).tolist()
    source = f"counted in {len(counts)} of {len(rows)} slides"
    return PatchCounts(dict(zip(settings.magnifications, means, strict=True)), source)


def _scale(published: PublishedPatches, magnifications: Sequence[float]) -> dict[float, float]:
    """Convert a patch count to other magnifications, for the same tissue area."""
    return {m: published.count * (m / published.magnification) ** 2 for m in magnifications}
