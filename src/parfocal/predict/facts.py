"""The parts of a prediction record that describe the slide, the model and the exhaustive cost."""

from collections.abc import Sequence
from importlib.metadata import version

from jaxtyping import Float
from torch import Tensor

from parfocal.cost import ExhaustiveCost, count_macs
from parfocal.encoders.encoder import Encoder
from parfocal.encoders.per_magnification import encoder_text, per_magnification
from parfocal.explain.record_parts import (
    BudgetFacts,
    ModelFacts,
    RoundFacts,
    SlideFacts,
    ThresholdFacts,
)
from parfocal.features.header import SlideSettings
from parfocal.features.slide_input import BagInput, SlideInput
from parfocal.models.checkpoint import Checkpoint
from parfocal.models.contract import PixelEncoder
from parfocal.models.visit import budget_text
from parfocal.prediction import Prediction
from parfocal.slide.given_tissue import tissue_fingerprint
from parfocal.slide.resolution import requested_magnification
from parfocal.slide.slide import Slide
from parfocal.slide.sources.url import recorded_path
from parfocal.tasks import Answer, task_of


def label_probabilities(
    labels: Sequence[str], probabilities: Float[Tensor, "t c"] | None
) -> list[dict[str, float]]:
    """Return each row of class probabilities by label; no rows for None."""
    rows = [] if probabilities is None else probabilities.tolist()
    return [dict(zip(labels, row, strict=True)) for row in rows]


def budget_facts(trained: Checkpoint, prediction: Prediction) -> BudgetFacts | None:
    """Return the budget of a model, and whether it was met; None if it has none."""
    if trained.budget is None:
        return None
    return BudgetFacts(budget_text(trained.budget), prediction.budget_met)


def threshold_facts(trained: Checkpoint) -> ThresholdFacts | None:
    """Return the threshold that decides which of two classes is predicted; None if none does."""
    point = trained.operating_point
    if point is None or len(point.thresholds) != 1 or len(task_of(trained).classes) != 2:
        return None
    ((label, threshold),) = point.thresholds.items()
    return ThresholdFacts(label, threshold.value, str(point.rule))


def thresholds_facts(trained: Checkpoint) -> tuple[ThresholdFacts, ...]:
    """Return the threshold of each of several labels that may all be true; none for classes."""
    point = trained.operating_point
    if point is None or task_of(trained).classes:
        return ()
    return tuple(
        ThresholdFacts(label, threshold.value, str(point.rule))
        for label, threshold in point.thresholds.items()
    )


def described(trained: Checkpoint, answer: Answer) -> str:
    """Return what is predicted as a short text, for a task without classes; else ""."""
    task = task_of(trained)
    if task.classes:
        return ""
    thresholds = {each.label: each.value for each in thresholds_facts(trained)}
    return task.describe(answer, thresholds)


def round_facts(trained: Checkpoint, prediction: Prediction) -> tuple[RoundFacts, ...]:
    """Return the answers after each round; a task without classes has no probabilities."""
    facts = []
    for each in prediction.rounds:
        known = bool(task_of(trained).classes)
        probabilities = label_probabilities(
            trained.labels, trained.calibrated(each.logits).softmax(0)[None] if known else None
        )
        facts.append(RoundFacts(sum(each.patches), probabilities[0] if known else {}))
    return tuple(facts)


def slide_facts(slide: Slide, settings: SlideSettings) -> SlideFacts:
    """Return the description of a slide, whose tissue is used with `settings`."""
    return SlideFacts(
        id=slide.id,
        path=None if slide.path is None else recorded_path(slide.path),
        fingerprint=slide.fingerprint,
        size=slide.size,
        mpp=slide.mpp,
        mpp_source=slide.mpp_source,
        tissue_fingerprint=tissue_fingerprint(slide.tissue_path, settings.exclude_classes),
    )


def model_facts(trained: Checkpoint) -> ModelFacts:
    """Return the description of a trained model."""
    return ModelFacts(
        name=trained.model_name,
        weights_sha256=trained.weights_hash,
        encoder=trained.encoder_text,
        encoder_weights_sha256=encoder_text(
            [each.weights_hash for each in trained.encoders], trained.magnifications
        ),
        magnifications=trained.magnifications,
        patch_size=trained.patch_size,
        parfocal_version=version("parfocal"),
        settings_sha256=trained.settings_hash,
    )


def exhaustive_cost(
    slide: Slide,
    slide_input: SlideInput,
    trained: Checkpoint,
    encoder: Encoder | Sequence[Encoder] | None,
) -> ExhaustiveCost:
    """Compute the cost of encoding every tissue patch at the highest magnification of the model."""
    sharpest, side = slide_input.sharpest, trained.patch_size
    assert sharpest is not None
    level_mpp = slide.mpp * slide.levels[slide.level_for(sharpest.mpp)].downsample
    encoders = per_magnification(encoder, len(trained.magnifications))
    if not encoders:
        assert isinstance(trained.model, PixelEncoder)
        macs_per_patch: int | None = count_macs(trained.model.encoder, (1, 3, side, side))
    else:
        macs_per_patch = encoders[-1].macs_per_patch()
    return ExhaustiveCost(
        magnification=requested_magnification(sharpest.mpp, trained.magnifications),
        patches=sharpest.patches,
        descendants=sharpest.descendants,
        macs=None if macs_per_patch is None else sharpest.patches * macs_per_patch,
        pixels=sharpest.patches * round(side * sharpest.mpp / level_mpp) ** 2,
    )


def stored_exhaustive_cost(slide_input: BagInput, trained: Checkpoint) -> ExhaustiveCost:
    """Compute the cost of visiting every stored patch at the highest magnification of the model.

    Stored features need neither pixels nor an encoder, and neither do all of them.
    """
    sharpest = slide_input.sharpest
    step = slide_input.steps[-1]
    stored = int(slide_input.grid.valid(step).sum())
    return ExhaustiveCost(
        magnification=trained.magnifications[-1],
        patches=stored if sharpest is None else sharpest.patches,
        descendants=stored if sharpest is None else sharpest.descendants,
        macs=None,
        pixels=0,
    )
