"""Whether a model has learned where to zoom, judged on the validation slides.

A model of features that zooms is run once more after training, with its own selection and, if the
features are stored, with every patch. If the zoom was not learned, its answers are no better than
chance, and the metrics do not say why: this check does.
"""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from parfocal.dataset.cohort import CohortSlide
from parfocal.metrics import delong_interval
from parfocal.prediction import Look, Prediction
from parfocal.train.batch import BatchRunner
from parfocal.train.training_module import TrainingModule
from parfocal.train.validation import ValidationOutput, validation_metrics

logger = logging.getLogger(__name__)

FLAT = 1.5  # zoom attention on the selected patches, over their share: below this it is flat
HINDSIGHT = "zoommil-hindsight"
EVERY_PATCH_AT_FIRST = "model.start_share=1"
BOTH = 2  # attentions of the zoom, and of the model with every patch
WORSE = 0.1  # AUROC with every patch minus that with the selected ones: from this on it is worse
CHANCE = 0.6  # AUROC below which an answer is called chance if it has no interval


@dataclass(frozen=True)
class ZoomCheck:
    """How a trained model zooms on the validation slides.

    Args:
        slides: number of slides that have more patches than are selected.
        share: mean share of the patches that are selected, over zooms and these slides; what an
            attention at random would have on them.
        attention: mean zoom attention on the selected patches.
        visited_share: mean share of the patches of the highest magnification that are visited; None
            if the model was not run on every patch.
        visited_attention: mean attention on these patches when the model is given every patch.
        auroc: macro AUROC with the selected patches; None if it is undefined.
        auroc_low: lower end of its 95% interval; None if there is none.
        auroc_exhaustive: macro AUROC with every patch; None if it was not run.
        warning: why the zoom was not learned; None if there is no sign of that.
    """

    slides: int
    share: float | None
    attention: float | None
    visited_share: float | None = None
    visited_attention: float | None = None
    auroc: float | None = None
    auroc_low: float | None = None
    auroc_exhaustive: float | None = None
    warning: str | None = None


def zoom_warning(check: ZoomCheck, *, remedy: str | None = HINDSIGHT) -> str | None:
    """Return why the zoom was not learned, in one sentence with the numbers; None if it was.

    Args:
        check: the numbers; its `warning` is ignored.
        remedy: recipe or setting with which the zoom is learned from fewer slides, if any.
    """
    other = "" if remedy is None else f"{remedy} or "
    if not check.slides or check.auroc is None:
        return _warning_without_score(check, other)
    exhaustive = check.auroc_exhaustive
    with_all = "" if exhaustive is None else f" and {exhaustive:.2f} with every patch"
    found = f"validation AUROC is {check.auroc:.2f} with the selected patches{with_all}"
    if exhaustive is not None and exhaustive - check.auroc >= WORSE:
        return (
            f"the zoom misses decisive patches: {found}. Train on more slides, select more patches "
            f"(model.k), or try {other}an exhaustive model, such as abmil."
        )
    low = check.auroc_low if check.auroc_low is not None else check.auroc - (CHANCE - 0.5)
    if low > 0.5:
        return None
    flat, no_better = _flat_attentions(check), f"{found}, which is no better than chance"
    if exhaustive is not None and exhaustive > CHANCE:
        if len(flat) < BOTH:
            return None  # with every patch it is not worse, so the interval is wide
        return (
            f"the zoom may not have been learned: {found}, which the validation slides are too few "
            f"to distinguish from chance; {' and '.join(flat)}. Train on more slides, or compare "
            f"with {other}an exhaustive model, such as abmil."
        )
    if flat:
        what = f"the zoom was not learned: {no_better}, and {flat[0]}"
    else:
        what, other = f"the model has not learned the classes: {no_better}", ""
    return f"{what}. Train on more slides, or try {other}an exhaustive model, such as abmil."


def _warning_without_score(check: ZoomCheck, other: str) -> str | None:
    """Return a warning from the attention alone, of a task that has no AUROC."""
    flat = _flat_attentions(check)
    if not flat or not check.slides:
        return None
    return (
        f"the zoom may not have been learned: {flat[0]}. Train on more slides, or compare with "
        f"{other}an exhaustive model, such as abmil."
    )


def _flat_attentions(check: ZoomCheck) -> list[str]:
    """Return how the selection compares with one at random, by each attention that is no better."""
    pairs = (
        ("the zoom attention on the selected patches is", check.attention, check.share),
        (
            "with every patch, the attention on those that zooming visits is",
            check.visited_attention,
            check.visited_share,
        ),
    )
    return [
        f"{name} {attention:.1%} ({share:.1%} in a random selection)"
        for name, attention, share in pairs
        if attention is not None
        and share is not None
        and attention < min(FLAT * share, (1 + share) / 2)  # the latter where most are selected
    ]


def summarize_zoom(
    module: TrainingModule, device: torch.device, *, exhaustive: bool
) -> dict[str, Any] | None:
    """Judge the zoom of a trained model and log a warning if it was not learned.

    Args:
        module: the trained module; its model gets the weights of the best epoch.
        device: device of the model.
        exhaustive: whether to also run the model on every patch; without stored features, every
            patch of the validation slides would have to be encoded for it.

    Returns:
        The fields of the `ZoomCheck`; None for a model that does not learn where to zoom.
    """
    traits = module.traits
    if traits.uses_teacher or not (traits.zooms and traits.takes_features):
        return None
    module.model.load_state_dict(safetensors.torch.load_file(module.best_file))
    module.model.to(device)
    remedy = _remedy(module.model)
    check = check_zoom(
        module.runner, module.val_slides, device, exhaustive=exhaustive, remedy=remedy
    )
    if check.warning is not None:
        logger.warning("%s: %s", module.folder.path, check.warning)
    return asdict(check)


def check_zoom(
    runner: BatchRunner,
    slides: Sequence[CohortSlide],
    device: torch.device,
    *,
    exhaustive: bool,
    remedy: str | None = HINDSIGHT,
) -> ZoomCheck:
    """Run a trained model on the validation slides, and judge its zoom.

    Args:
        runner: runs the model, which has its final weights.
        slides: the validation slides.
        device: device of the model.
        exhaustive: whether to also run the model on every patch.
        remedy: see `zoom_warning`.
    """
    runner.model.eval()
    zoomed = _run(runner, slides, device)
    choices = [each for output in zoomed for each in _choices(output.prediction)]
    check = ZoomCheck(
        slides=sum(bool(_choices(output.prediction)) for output in zoomed),
        share=fmean(share for share, _ in choices) if choices else None,
        attention=fmean(attention for _, attention in choices) if choices else None,
        auroc=_auroc(zoomed, runner),
        auroc_low=_auroc_low(zoomed, runner),
    )
    if exhaustive and choices:
        runner.exhaustive = True
        try:
            everything = _run(runner, slides, device)
        finally:
            runner.exhaustive = False
        pairs = [
            _visited(few.prediction.looks[-1], every.prediction.looks[-1])
            for few, every in zip(zoomed, everything, strict=True)
        ]
        check = replace(
            check,
            visited_share=fmean(share for share, _ in pairs),
            visited_attention=fmean(attention for _, attention in pairs),
            auroc_exhaustive=_auroc(everything, runner),
        )
    return replace(check, warning=zoom_warning(check, remedy=remedy))


def _remedy(model: nn.Module) -> str | None:
    """Return what learns the zoom from fewer slides than a model; None if nothing is known to."""
    if not getattr(model, "hindsight", False):
        return HINDSIGHT
    return None if getattr(model, "start_share", 1) == 1 else EVERY_PATCH_AT_FIRST


@dataclass(frozen=True)
class _Output:
    """What a model answers for one slide."""

    prediction: Prediction
    validation: ValidationOutput


def _run(runner: BatchRunner, slides: Sequence[CohortSlide], device: torch.device) -> list[_Output]:
    """Run a model on slides; those that cannot be read are left out."""
    outputs = []
    for slide in slides:
        with torch.no_grad():
            prediction, target = runner.run([slide], device)
        if prediction is not None:
            logits = prediction.logits.double().cpu()
            outputs.append(_Output(prediction, ValidationOutput(slide, logits, target.cpu())))
    return outputs


def _auroc(outputs: Sequence[_Output], runner: BatchRunner) -> float | None:
    if not outputs:
        return None
    metrics = validation_metrics([output.validation for output in outputs], runner.task)
    return metrics.get("auroc_macro")


def _auroc_low(outputs: Sequence[_Output], runner: BatchRunner) -> float | None:
    """Return the lower end of the interval of the AUROC, for two classes."""
    if len(runner.task.classes) != 2 or not outputs:
        return None
    truth = np.array([int(output.validation.target) == 1 for output in outputs])
    logits = torch.stack([output.validation.logits for output in outputs])
    return delong_interval(truth, (logits[:, 1] - logits[:, 0]).numpy()).low


def _choices(prediction: Prediction) -> list[tuple[float, float]]:
    """Return, for each zoom that left out patches, the share selected and the attention on it."""
    choices = []
    for look in prediction.looks:
        if look.selected is None or look.zoom_attention is None:
            continue
        # A slide that the fusion of a patient leaves out has selected patches, but no attention.
        selected = look.zoom_attention[look.selected]
        count, existing = int((selected > 0).sum()), int((look.zoom_attention > 0).sum())
        if existing > count:
            choices.append((count / existing, float(selected.sum())))
    return choices


def _visited(zoomed: Look, exhaustive: Look) -> tuple[float, float]:
    """Return which share of all patches a model visits, and the attention on them among all."""
    visited: Tensor = torch.isin(exhaustive.rows, zoomed.rows)
    exists = exhaustive.score > 0
    return float(visited[exists].double().mean()), float(exhaustive.score[visited].sum())
