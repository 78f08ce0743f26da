"""Summarize over slides whether the patches that a model attends to are enough, and needed."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from parfocal.evaluate.sufficiency import DELETED_SHARES, KEPT_SHARE, Sufficiency
from parfocal.metrics import Score, mean_with_interval, proportion_with_interval


@dataclass(frozen=True)
class SufficiencySummary:
    """The sufficiency of all slides.

    Args:
        slides: of each slide.
        patients: patient of each slide.
    """

    slides: tuple[Sufficiency, ...]
    patients: tuple[str, ...]

    def to_dict(self) -> dict[str, object]:
        """Return the key `sufficiency` of audit.json."""
        same = [self._share([each.same_class[n] for each in self.slides]) for n in range(4)]
        return {
            "sufficient": asdict(self._mean([each.sufficient for each in self.slides])),
            "sufficient_at_random": asdict(self._random_suffices),
            "share": KEPT_SHARE,
            "keep": {
                "probability": asdict(self._mean([each.kept for each in self.slides])),
                "probability_at_random": asdict(
                    self._mean([each.kept_at_random for each in self.slides])
                ),
                "same_class": asdict(same[0]),
                "same_class_at_random": asdict(same[1]),
            },
            "remove": {"same_class": asdict(same[2]), "same_class_at_random": asdict(same[3])},
            "deletion": [
                {
                    "share": share,
                    "probability": asdict(self._mean([each.removed[n] for each in self.slides])),
                    "probability_at_random": asdict(
                        self._mean([each.removed_at_random[n] for each in self.slides])
                    ),
                }
                for n, share in enumerate(DELETED_SHARES)
            ],
        }

    @property
    def text(self) -> str:
        """The main results in one line."""
        enough = self._mean([each.sufficient for each in self.slides])
        same = [self._share([each.same_class[n] for each in self.slides]).value for n in range(4)]
        shares = [0.0 if each is None else each for each in same]
        return (
            f"on average, {enough.value:.1f} patches are enough for the class of a slide (as many "
            f"random patches on {self._random_suffices.value or 0.0:.1%} of the slides); with only "
            f"the {KEPT_SHARE:.0%} of the patches with the most attention, the class stays the "
            f"same on {shares[0]:.1%} (at random {shares[1]:.1%}), without them on "
            f"{shares[2]:.1%} (at random {shares[3]:.1%})"
        )

    @property
    def _random_suffices(self) -> Score:
        """Share of the slides on which random patches suffice, no more than those most wanted."""
        return self._share(
            [
                each.sufficient_at_random is not None
                and each.sufficient_at_random <= each.sufficient
                for each in self.slides
            ]
        )

    def _mean(self, values: Sequence[float]) -> Score:
        return mean_with_interval(np.array(values, dtype=float), self.patients)

    def _share(self, values: Sequence[bool]) -> Score:
        return proportion_with_interval(np.array(values, dtype=float), self.patients)
