"""Run a model on one slide of a cohort, with the cost and the localization of its looks."""

import math
from collections.abc import Sequence
from dataclasses import replace

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
from parfocal.evaluate.result import FullAnswer, SlideResult, StepResult
from parfocal.features.patient_input import unreachable_share
from parfocal.features.slide_input import SlideInput
from parfocal.models.checkpoint import Checkpoint
from parfocal.models.contract import require_finite
from parfocal.models.visit import answer
from parfocal.prediction import OFF_GRID, Look, Prediction
from parfocal.tasks import task_of


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
    result, looks = visit_slide(slide, opened, trained)
    return compare_with_lesions(result, looks, opened, trained, outlines)


def visit_slide(
    slide: CohortSlide, opened: SlideInput, trained: Checkpoint
) -> tuple[SlideResult, tuple[Look, ...]]:
    """Run a model on one slide; return the result without localization, and the looks.

    Args:
        slide: the slide with its label.
        opened: the opened slide.
        trained: the model.

    Raises:
        OutputNotFiniteError: the model's output is not finite.
    """
    with torch.no_grad(), opened.cost_meter.measure_macs():
        visited = answer(trained, opened)
    prediction = visited.prediction
    require_finite(prediction, slide.slide_id)
    cost = opened.cost_meter.total()
    looks = opened.locate(prediction.looks)
    steps = tuple(_step_result(step, look, trained) for step, look in enumerate(looks))
    full = None
    if visited.finish is not None:  # after the cost was taken
        with torch.no_grad():
            full = visited.finish()
    predicted = task_of(trained).answer(trained.calibrated(prediction.logits.double()))
    result = SlideResult(
        slide,
        tuple(predicted.probabilities.values()),
        steps,
        _share_patches(opened, sum(step.patches for step in steps)),
        cost,
        unreachable=unreachable_share(opened, looks),
        full=None if full is None else _full_answer(trained, full),
        budget_met=prediction.budget_met,
        outputs=predicted.outputs,
    )
    return result, looks


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


def _full_answer(trained: Checkpoint, prediction: Prediction) -> FullAnswer:
    return FullAnswer(
        tuple(
            task_of(trained)
            .answer(trained.calibrated(prediction.logits.double()))
            .probabilities.values()
        ),
        sum(prediction.rounds[-1].patches),
    )


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
