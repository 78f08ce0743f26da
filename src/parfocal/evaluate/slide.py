"""Run a model on one slide of a cohort, with the cost and the localization of its looks."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from parfocal.bag import PixelSource
from parfocal.dataset.cohort import CohortSlide
from parfocal.dataset.detections import Detections, detect
from parfocal.dataset.localization import (
    Localization,
    join_looks,
    localize,
    random_touch_rate,
)
from parfocal.dataset.outlines import Outlines
from parfocal.evaluate.result import SlideResult, StepResult
from parfocal.features.patient_input import unreachable_share
from parfocal.features.slide_input import SlideInput
from parfocal.models.checkpoint import Checkpoint
from parfocal.models.contract import require_finite
from parfocal.models.visit import answer
from parfocal.prediction import OFF_GRID, Look, Prediction
from parfocal.tasks import task_of


@dataclass(frozen=True)
class SlideVisit:
    """What one model visited on a slide, and a way to visit the rest.

    Args:
        result: the result, without localization and without the answer after all rounds.
        looks: the looks, with their places.
        finish: visits what the rule left out, and returns the result after all rounds, with the
            cost of `result`; None if there is no rule. Its visits are added to the cost meter.
    """

    result: SlideResult
    looks: tuple[Look, ...]
    finish: Callable[[], SlideResult] | None = None


def evaluate_slide(
    slide: CohortSlide, opened: SlideInput, trained: Checkpoint, outlines: Outlines | None
) -> SlideResult:
    """Run a model on one slide.

    Args:
        slide: the slide with its label.
        opened: the opened slide.
        trained: the model.
        outlines: the lesions; None where the cohort has no outlines.

    Raises:
        OutputNotFiniteError: the model's output is not finite.
    """
    visit = visit_slide(slide, opened, trained)
    full = None if visit.finish is None else visit.finish().as_full
    result = replace(visit.result, full=full)
    return compare_with_lesions(result, visit.looks, opened, trained, outlines)


def visit_slide(
    slide: CohortSlide, opened: SlideInput, trained: Checkpoint, *, models_left: int = 1
) -> SlideVisit:
    """Run a model on one slide.

    Args:
        slide: the slide with its label.
        opened: the opened slide.
        trained: the model.
        models_left: number of models, this one included, that share the seconds of a budget.

    Raises:
        OutputNotFiniteError: the model's output is not finite.
    """
    with torch.no_grad(), opened.cost_meter.measure_macs():
        visited = answer(trained, opened, models_left=models_left)
    prediction, rest = visited.prediction, visited.finish
    require_finite(prediction, slide.slide_id)
    cost = opened.cost_meter.total()

    def result_of(found: Prediction, looks: Sequence[Look]) -> SlideResult:
        steps = tuple(_step_result(step, look, trained) for step, look in enumerate(looks))
        predicted = task_of(trained).answer(trained.calibrated(found.logits.double()))
        return SlideResult(
            slide,
            tuple(predicted.probabilities.values()),
            steps,
            _share_patches(opened, sum(step.patches for step in steps)),
            cost,
            unreachable=unreachable_share(opened, looks),
            budget_met=found.budget_met,
            outputs=predicted.outputs,
        )

    def finish() -> SlideResult:
        assert rest is not None
        with torch.no_grad():
            full = rest()
        return result_of(full, opened.locate(full.looks))

    looks = opened.locate(prediction.looks)
    return SlideVisit(result_of(prediction, looks), looks, None if rest is None else finish)


def compare_with_lesions(
    result: SlideResult,
    looks: Sequence[Look],
    opened: SlideInput,
    trained: Checkpoint,
    outlines: Outlines | None,
) -> SlideResult:
    """Return a result with the localization and the detections of its looks.

    Args:
        result: the result, with a step for each look.
        looks: the looks, with their places.
        opened: the opened slide.
        trained: the model.
        outlines: the lesions; None where the cohort has no outlines.
    """
    if outlines is None:
        return result
    lesions = outlines if outlines.polygons else None
    shares_probability = bool(looks) and looks[0].score_kind == "sampling_probability"
    steps = result.steps
    if lesions is not None:
        steps = tuple(
            replace(step, localization=_localize(look, lesions, opened))
            for step, look in zip(result.steps, looks, strict=True)
        )
    return replace(
        result,
        steps=steps,
        localization=localize(join_looks(looks), lesions)
        if lesions is not None and shares_probability
        else None,
        detections=_detections(looks, outlines, trained),
    )


def _detections(
    looks: Sequence[Look], outlines: Outlines, trained: Checkpoint
) -> Detections | None:
    """Return where the model points to lesions; None where its scores do not say that."""
    last = looks[-1] if looks else None
    if last is None or last.places is None or last.score_kind in OFF_GRID or not len(last.score):
        return None
    mpp = float(last.places.mpps[0]) * trained.patch_size / float(last.places.boxes[0, 2])
    return detect(last, outlines, mpp)


def _localize(look: Look, lesions: Outlines, opened: SlideInput) -> Localization | None:
    """Compare a look with the lesions; None where all attention is at another magnification."""
    if not look.score.any():
        return None
    rate = None
    if look.score_kind in OFF_GRID:
        assert isinstance(opened.model_input, PixelSource)
        rate = random_touch_rate(look, lesions, opened.model_input)
    return localize(look, lesions, random_rate=rate)


def _step_result(step: int, look: Look, trained: Checkpoint) -> StepResult:
    assert look.places is not None
    key = float(step)
    if trained.traits.fixed_magnifications:
        key = _nearest(trained.magnifications, look.places.mpps.median().item())
    order = look.places.order
    is_sampled = look.score_kind == "sampling_probability"
    return StepResult(
        key,
        patches=len(look.rows) if order is None else int((order >= 0).sum()),
        probability=float(look.score.sum()) if is_sampled else None,
    )


def _nearest(magnifications: Sequence[float], mpp: float) -> float:
    return min(magnifications, key=lambda magnification: abs(math.log(mpp * magnification / 10)))


def _share_patches(opened: SlideInput, patches: int) -> float | None:
    """Return patches as a share of all patches at the highest magnification."""
    sharpest = opened.sharpest
    return None if sharpest is None or sharpest.patches == 0 else patches / sharpest.patches
