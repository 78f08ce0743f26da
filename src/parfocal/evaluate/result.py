"""The results of an evaluation, slide by slide."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from parfocal.cost import Cost
from parfocal.dataset.cohort import CohortSlide
from parfocal.dataset.detections import Detections
from parfocal.dataset.localization import Localization
from parfocal.dataset.patients import slides_of
from parfocal.metrics import LabeledPredictions
from parfocal.models.late_fusion import Fusion
from parfocal.models.unit import Per
from parfocal.operating_point import OperatingPoint
from parfocal.slide.errors import name_failure

EvaluatedSplit = Literal["train", "val", "test", "all"]


@dataclass(frozen=True)
class StepResult:
    """One look of a model at a slide.

    Args:
        key: the requested magnification; for a model without fixed magnifications, the index of
            the look.
        patches: number of visited patches.
        probability: probability of sampling at this magnification; None for a model that does
            not sample.
        localization: comparison with the outlined lesions; None where there are none.
    """

    key: float
    patches: int
    probability: float | None = None
    localization: Localization | None = None


@dataclass(frozen=True)
class FullAnswer:
    """What a model that stopped early answers after all rounds.

    Args:
        probabilities: probability of each class, in the model's order.
        patches: number of visited patches.
    """

    probabilities: tuple[float, ...]
    patches: int


@dataclass(frozen=True)
class SlideResult:
    """The prediction for one slide, and its cost.

    Args:
        slide: the slide with its true label.
        probabilities: probability of each class, in the model's order; empty for a task without
            classes.
        steps: the looks of the model.
        share_patches: visited patches, as a share of the patches that exhaustive processing would
            encode; None where unknown.
        cost: the measured cost.
        localization: comparison of all looks together with the outlined lesions, for a model
            whose looks share one sampling probability; else None.
        unreachable: share of the tissue that the model cannot reach; None if unknown.
        full: the answer after all rounds, for a model that stops when its answer has settled.
        left_out: ids of the patient's slides that could not be read, if it went on with the
            others.
        budget_met: whether the visits, of each fold for a run with folds, stayed within a fixed
            budget; None if there was none.
        outputs: other predicted numbers, by name, as of `parfocal.tasks.Answer`.
        folds: names of the folds that answered, for a run with folds.
        spread: standard deviation of each probability or output over these folds, by name; empty
            for one model.
        detections: places where the model points to a lesion; None without outlines.
    """

    slide: CohortSlide
    probabilities: tuple[float, ...]
    steps: tuple[StepResult, ...]
    share_patches: float | None
    cost: Cost
    localization: Localization | None = None
    unreachable: float | None = None
    full: FullAnswer | None = None
    left_out: tuple[str, ...] = ()
    budget_met: bool | None = None
    outputs: dict[str, float] = field(default_factory=dict)
    folds: tuple[str, ...] = ()
    spread: dict[str, float] = field(default_factory=dict)
    detections: Detections | None = None

    @property
    def slides(self) -> int:
        """Number of slides that the prediction is for."""
        return len(slides_of([self.slide])) - len(self.left_out)

    @property
    def patches(self) -> int:
        """Number of visited patches."""
        return sum(step.patches for step in self.steps)

    @property
    def as_full(self) -> FullAnswer:
        """The answer after all rounds, of a result in which they were visited."""
        return FullAnswer(self.probabilities, self.patches)


@dataclass(frozen=True)
class Failure:
    """A slide without a prediction.

    Args:
        slide: the slide.
        reason: message of the error.
    """

    slide: CohortSlide
    reason: str

    @property
    def message(self) -> str:
        """The slide and the reason, in one line."""
        failure = name_failure(self.slide.slide_id, self.reason)
        return f"{failure.name}: {failure.reason}"


@dataclass(frozen=True)
class EvaluationSettings:
    """How an evaluation was made.

    Args:
        split: the evaluated part, or "all".
        features: "stored" where features were read from files, so that nothing was encoded.
        external: whether the cohort is another than the one of the run.
        not_in_run: number of slides that are not in the split of the run.
        seen_in_training: number of slides used for training or validation.
        resamples: number of bootstrap resamples.
        seed: seed of the resampling.
        per: whether one prediction is made for each "slide", or for each "patient".
        fusion: how the predictions for the slides of a patient are joined; None for one bag, and
            per slide.
    """

    split: EvaluatedSplit
    features: Literal["stored", "live"]
    external: bool
    not_in_run: int
    seen_in_training: int
    resamples: int
    seed: int
    per: Per = "slide"
    fusion: Fusion | None = None


def labeled_predictions(
    labels: tuple[str, ...], results: Sequence[SlideResult], point: OperatingPoint | None = None
) -> LabeledPredictions:
    """Return the predicted probabilities and the true labels of slides.

    Args:
        labels: the classes, in the model's order.
        results: the predictions.
        point: the thresholds of the model; None for the most probable class.
    """
    threshold = None
    if point is not None and len(labels) == 2 and len(point.thresholds) == 1:
        ((label, chosen),) = point.thresholds.items()
        threshold = labels.index(label), chosen.value
    return LabeledPredictions(
        labels,
        np.array([labels.index(result.slide.label) for result in results]),
        np.array([result.probabilities for result in results]),
        tuple(result.slide.patient_id for result in results),
        threshold,
    )
