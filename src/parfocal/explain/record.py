"""The record of a prediction: the class probabilities, the patches visited, and the cost.

docs/formats.md describes its JSON. A record holds raw scores and positions in level-0 pixels, so
that maps can be drawn from it without the model.
"""

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from parfocal.cost import Cost
from parfocal.explain.bill import bill_of
from parfocal.explain.record_parts import (
    BudgetFacts,
    MemberFacts,
    ModelFacts,
    PatientFacts,
    Region,
    RoundFacts,
    SlideFacts,
    ThresholdFacts,
    has_class_probabilities,
)
from parfocal.grid import Reach
from parfocal.prediction import OFF_GRID
from parfocal.printable import named_number
from parfocal.slide.resolution import requested_magnification
from parfocal.slide.sources.url import is_url

if TYPE_CHECKING:
    import pandas as pd

FORMAT_VERSION = 2
CLASSIFICATION = "classification"  # the task of records that name none
NOTHING_TO_SKIP = "nothing to skip on this slide"


@dataclass(frozen=True)
class PredictionRecord:
    """A model's prediction for one slide, with the patches visited and the cost.

    Args:
        slide: the slide.
        model: the model.
        probabilities: probability of each class, by label; they sum to 1. Empty for a task without
            classes.
        stop_reason: why the model visited no more patches.
        mpps: µm per pixel of each step, lowest magnification first.
        regions: patches that were visited, or weighed on a thumbnail.
        cost: measured cost; `cost.exhaustive` is not None.
        reach: tissue that the model cannot reach; None in records of version 1.
        notes: sentences on what is unusual about the slide file.
        budget: how much of the slide the model was to visit; None for what it visits by itself.
        rounds: the answers after each round; empty if the model did not visit in rounds.
        patient: the patient whose prediction this is, with `probabilities` of the patient and
            scores that sum to 1 over all slides; None for the prediction of a slide.
        covariates: clinical values that the model used, by column, as they were given.
        task: what is predicted, a name of `parfocal.tasks.TASKS`.
        outputs: other predicted numbers by name, such as a risk, for a task without classes.
        predicted: what is predicted, as a short text, for a task without classes.
        threshold: the threshold that decides which of two classes is predicted; None for the most
            probable class.
        thresholds: threshold of each of several labels that may all be true; empty for one half.
        members: the answers of several models, such as those of the folds, whose mean
            `probabilities` and `outputs` are; empty for one model.
        spread: standard deviation of each probability or output over the members, by name.
    """

    slide: SlideFacts
    model: ModelFacts
    probabilities: dict[str, float]
    stop_reason: str
    mpps: tuple[float, ...]
    regions: tuple[Region, ...]
    cost: Cost
    reach: Reach | None = None
    notes: tuple[str, ...] = ()
    budget: BudgetFacts | None = None
    rounds: tuple[RoundFacts, ...] = ()
    patient: PatientFacts | None = None
    covariates: dict[str, str] = field(default_factory=dict)
    task: str = CLASSIFICATION
    outputs: dict[str, float] = field(default_factory=dict)
    predicted: str = ""
    threshold: ThresholdFacts | None = None
    thresholds: tuple[ThresholdFacts, ...] = ()
    members: tuple[MemberFacts, ...] = ()
    spread: dict[str, float] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The most probable class, or that of the threshold.

        For a task without classes, what is predicted as text.
        """
        if not self.probabilities:
            return self.predicted
        threshold = self.threshold
        if threshold is not None and len(self.probabilities) == 2:
            (other,) = self.probabilities.keys() - {threshold.label}
            reached = self.probabilities[threshold.label] >= threshold.value
            return threshold.label if reached else other
        return max(self.probabilities, key=self.probabilities.__getitem__)

    @property
    def answer(self) -> str:
        """The predicted class with its probability, or what else is predicted."""
        if not self.probabilities:
            return f"{self.predicted}{self._spread_text()}{self._thresholds_text}"
        number = f"{self.probabilities[self.label]:.2f}{self._spread_text(self.label)}"
        text = named_number(self.label, number)
        if self.threshold is not None:
            text += f" (threshold {self.threshold.label} >= {self.threshold.value:.2f})"
        return text

    @property
    def _thresholds_text(self) -> str:
        """The thresholds of several labels as text; empty without."""
        listed = ", ".join(f"{each.label} >= {each.value:.2f}" for each in self.thresholds)
        return f" (thresholds {listed})" if listed else ""

    def _spread_text(self, name: str | None = None) -> str:
        """Return the spread of a number over the members as text; empty for one model."""
        if not self.spread:
            return ""
        spread = next(iter(self.spread.values())) if name is None else self.spread[name]
        return f" ± {spread:.2g} over {len(self.members)} models"

    @property
    def bill(self) -> str:
        """The cost in one line, compared with encoding every tissue patch; and the reach."""
        note = self.nothing_to_skip or ""
        if self.budget is not None and self.budget.met is False:
            note = f"the budget {self.budget.limit} was not met"
        path, reach = self.slide.path, self.reach
        return bill_of(
            self.cost,
            unreachable=None if reach is None else reach.unreachable,
            is_remote=path is not None and is_url(path),
            note=note,
        )

    @property
    def nothing_to_skip(self) -> str | None:
        """Why zooming saves nothing on this slide, as text; None if it saves, or is not done."""
        zoomed = [region for region in self.regions if region.selected]
        exhaustive, lowest = self.cost.exhaustive, self.regions_at(0)
        if not zoomed or len(self.mpps) == 1 or exhaustive is None:
            return None
        if sum(self.cost.patches) >= exhaustive.patches:
            return (
                f"{NOTHING_TO_SKIP}: encoding all {exhaustive.patches:,} patches at "
                f"{exhaustive.magnification:g}x costs no more"
            )
        if zoomed[0].score_kind != "attention" or not all(region.selected for region in lowest):
            return None
        magnification = self.magnification_at(self.mpps[0])
        return f"{NOTHING_TO_SKIP} at {magnification:g}x: all {len(lowest):,} patches are selected"

    @property
    def summary(self) -> str:
        """The slide, the predicted class, its probability and the bill, in one line."""
        return f"{self.slide.id}: {self.answer} · {self.bill}"

    def magnification_at(self, mpp: float) -> float:
        """Return the magnification to print for a resolution.

        This is the configured magnification that `mpp` stands for. A model that chooses its own
        squares has no configured ones, so for it the magnification follows from `mpp`.
        """
        off_grid = any(region.score_kind in OFF_GRID for region in self.regions[:1])
        return requested_magnification(mpp, () if off_grid else self.model.magnifications)

    def regions_at(self, step: int) -> list[Region]:
        """Return the regions of one step."""
        return [region for region in self.regions if region.step == step]

    def top_regions(self, count: int) -> list[Region]:
        """Return the visited regions of the highest magnification that counted most.

        Regions are ranked by score. If the score is the class probability after each patch, they
        are ranked by how much they raised it.
        """
        last = [region for region in self.regions_at(len(self.mpps) - 1) if region.visited]
        if not has_class_probabilities(last):
            return sorted(last, key=lambda region: -region.score)[:count]
        before = [1 / len(self.probabilities), *(region.score for region in last)]
        rises = {region.id: region.score - b for region, b in zip(last, before, strict=False)}
        return sorted(last, key=lambda region: -rises[region.id])[:count]

    def to_dict(self) -> dict[str, object]:
        """Return the content of the JSON file."""
        shares = {
            "share_patches": self.cost.share_patches,
            "share_pixels": self.cost.share_pixels,
            "share_macs": self.cost.share_macs,
            "share_bytes": self.cost.share_bytes,
        }
        return {
            "format_version": FORMAT_VERSION,
            "slide": asdict(self.slide),
            "model": asdict(self.model),
            "prediction": {"label": self.label, "probabilities": self.probabilities, **self._task},
            "stop_reason": self.stop_reason,
            "steps": [self._step(step) for step in range(len(self.mpps))],
            "regions": [asdict(region) for region in self.regions],
            "cost": asdict(self.cost) | shares,
            "reach": None if self.reach is None else asdict(self.reach),
            "nothing_to_skip": self.nothing_to_skip,
            "notes": list(self.notes),
            "budget": None if self.budget is None else asdict(self.budget),
            "rounds": [asdict(each) for each in self.rounds],
            **({} if self.patient is None else {"patient": asdict(self.patient)}),
            **({"covariates": self.covariates} if self.covariates else {}),
            **({} if self.threshold is None else {"threshold": asdict(self.threshold)}),
            **({"thresholds": list(map(asdict, self.thresholds))} if self.thresholds else {}),
            **self._members,
        }

    @property
    def _members(self) -> dict[str, object]:
        """The keys of a prediction by several models."""
        if not self.members:
            return {}
        return {"members": [asdict(each) for each in self.members], "spread": self.spread}

    @property
    def _task(self) -> dict[str, object]:
        """The keys of the prediction of another task than classification."""
        if self.task == CLASSIFICATION:
            return {}
        return {"task": self.task, "outputs": self.outputs}

    def to_json(self) -> str:
        """Return the text of the JSON file."""
        return json.dumps(self.to_dict(), indent=1) + "\n"

    def to_frame(self) -> "pd.DataFrame":
        """Return the regions as a pandas data frame, one row per region, in the order of visits.

        Raises:
            ImportError: pandas is not installed.
        """
        from parfocal.explain.notebook import to_frame  # noqa: PLC0415  # imports this module

        return to_frame(self)

    def _repr_html_(self) -> str:
        """Return HTML with the prediction and the slide, for notebooks."""
        from parfocal.explain.notebook import to_html  # noqa: PLC0415  # imports this module

        return to_html(self)

    def _step(self, step: int) -> dict[str, float]:
        visited = sum(region.visited for region in self.regions_at(step))
        mpp = self.mpps[step]
        return {"mpp": mpp, "magnification": self.magnification_at(mpp), "patches": visited}
