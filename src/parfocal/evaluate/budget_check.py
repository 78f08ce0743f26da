"""What a budget did on the evaluated slides: which it was met on, and which answers it changed."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from parfocal.evaluate.result import SlideResult
from parfocal.metrics import Score, proportion_with_interval
from parfocal.models.budget import SETTLED


@dataclass(frozen=True)
class BudgetCheck:
    """What a budget did on the evaluated slides.

    Args:
        limit: the budget, such as "share=5%", or "settled".
        slides: number of slides.
        not_met: number of slides whose lowest magnification alone cost more; None for "settled".
        disagreements: number of slides with another class than after all rounds; None for a fixed
            budget, as the two below.
        disagreement: that number as a share, with its exact interval over patients.
        share_of_full: patches visited, as a share of those after all rounds.
    """

    limit: str
    slides: int
    not_met: int | None = None
    disagreements: int | None = None
    disagreement: Score | None = None
    share_of_full: float | None = None

    @classmethod
    def of_results(cls, limit: str | None, results: Sequence[SlideResult]) -> "BudgetCheck | None":
        """Return the check of a budget; None if there was none, or for a model that takes pixels.

        Args:
            limit: the budget as text; None if there was none.
            results: the evaluated slides.
        """
        if limit is None:
            return None
        if limit != SETTLED:
            known = [each.budget_met for each in results if each.budget_met is not None]
            return cls(limit, len(results), not_met=known.count(False)) if known else None
        pairs = [(each, each.full) for each in results if each.full is not None]
        changed = np.array(
            [np.argmax(each.probabilities) != np.argmax(full.probabilities) for each, full in pairs]
        )
        visited = sum(each.patches for each, _ in pairs)
        return cls(
            limit,
            len(pairs),
            disagreements=int(changed.sum()),
            disagreement=proportion_with_interval(
                changed.astype(float), tuple(each.slide.patient_id for each, _ in pairs)
            ),
            share_of_full=visited / max(1, sum(full.patches for _, full in pairs)),
        )

    @property
    def text(self) -> str:
        """The check in one line."""
        if self.disagreement is None:
            unmet = f", not met on {self.not_met} of {self.slides} slides" if self.not_met else ""
            return f"budget {self.limit}{unmet}"
        assert self.disagreement.high is not None
        return (
            f"stopped when settled, after {self.share_of_full:.1%} of the patches of all rounds: "
            f"another class on {self.disagreements} of {self.slides} slides (at most "
            f"{self.disagreement.high:.1%} of such slides, the end of the exact 95% interval)"
        )

    def to_dict(self) -> dict[str, object]:
        """Return the check as in metrics.json."""
        return asdict(self) | {"text": self.text}
