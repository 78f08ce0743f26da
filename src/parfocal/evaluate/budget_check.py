"""What a budget did on the evaluated slides: which it was met on, and which answers it changed."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from parfocal.evaluate.result import SlideResult
from parfocal.metrics import Score, proportion_with_interval
from parfocal.models.budget import SETTLED
from parfocal.models.stopping import answered
from parfocal.models.unit import Per
from parfocal.printable import counted


@dataclass(frozen=True)
class BudgetCheck:
    """What a budget did on the evaluated slides.

    Args:
        limit: the budget, such as "share=5%", or "settled".
        slides: number of slides.
        not_met: number of slides on which the budget was exceeded; None for "settled".
        not_zoomed: number of slides of which only the lowest magnification was visited; None for
            "settled", and for a model that does not zoom.
        disagreements: number of slides with another class than after all rounds; None for a fixed
            budget, as the two below.
        disagreement: that number as a share, with its exact interval over patients.
        share_of_full: patches visited, as a share of those after all rounds.
        per: unit of the predictions, "slide" or "patient"; all numbers count these units.
    """

    limit: str
    slides: int
    not_met: int | None = None
    not_zoomed: int | None = None
    disagreements: int | None = None
    disagreement: Score | None = None
    share_of_full: float | None = None
    per: Per = "slide"

    @classmethod
    def of_results(
        cls,
        limit: str | None,
        results: Sequence[SlideResult],
        *,
        decision: float | None = None,
        per: Per = "slide",
        zooms: bool = True,
    ) -> "BudgetCheck | None":
        """Return the check of a budget; None if there was none, or if no result records it.

        Args:
            limit: the budget as text; None if there was none.
            results: the evaluated slides.
            decision: for two classes, the lowest probability of the second one at which it is
                predicted; None to predict the most probable class.
            per: unit of each result.
            zooms: whether the model zooms; if not, `not_zoomed` is None.
        """
        if limit is None:
            return None
        if limit != SETTLED:
            known = [each.budget_met for each in results if each.budget_met is not None]
            if not known:
                return None
            return cls(
                limit,
                len(results),
                per=per,
                not_met=known.count(False),
                not_zoomed=sum(not any(step.patches for step in each.steps[1:]) for each in results)
                if zooms
                else None,
            )
        pairs = [(each, each.full) for each in results if each.full is not None]
        if not pairs:
            return None
        changed = np.array(
            [
                answered(each.probabilities, decision) != answered(full.probabilities, decision)
                for each, full in pairs
            ]
        )
        visited = sum(each.patches for each, _ in pairs)
        return cls(
            limit,
            len(pairs),
            disagreements=int(changed.sum()),
            disagreement=proportion_with_interval(
                changed.astype(float), tuple(each.slide.patient_id for each, _ in pairs)
            ),
            per=per,
            share_of_full=visited / max(1, sum(full.patches for _, full in pairs)),
        )

    @property
    def text(self) -> str:
        """The check in one line."""
        if self.disagreement is None:
            total = counted(self.slides, self.per)
            unmet = f", not met on {self.not_met} of {total}" if self.not_met else ""
            lowest = f", no zoom on {self.not_zoomed} of {total}" if self.not_zoomed else ""
            return f"budget {self.limit}{unmet}{lowest}"
        assert self.disagreement.high is not None
        return (
            f"stopped when settled, after {self.share_of_full:.1%} of the patches of all rounds: "
            f"another class on {self.disagreements} of {counted(self.slides, self.per)} (at most "
            f"{self.disagreement.high:.1%} of such {self.per}s, the end of the exact 95% interval)"
        )

    def to_dict(self) -> dict[str, object]:
        """Return the check as in metrics.json."""
        content = asdict(self) | {"text": self.text}
        del content["per"]  # metrics.json has it once
        return content
