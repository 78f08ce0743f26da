"""Metrics on the validation slides of an epoch."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from parfocal.dataset.cohort import CohortSlide
from parfocal.metrics import LabeledPredictions, weighted_scores
from parfocal.tasks import Task

METRICS = ("accuracy", "weighted_f1", "auroc_macro")


@dataclass(frozen=True)
class ValidationOutput:
    """The output of a model for one validation slide.

    Args:
        slide: the slide.
        logits: logits in double precision, on the CPU.
        target: target of the slide, as the loss of the task takes it.
    """

    slide: CohortSlide
    logits: Tensor
    target: Tensor


def validation_metrics(outputs: Sequence[ValidationOutput], task: Task) -> dict[str, float | None]:
    """Compute the loss and the metrics of an epoch.

    Args:
        outputs: output of each validation slide.
        task: the task.

    Returns:
        The loss of the task as "loss", and the metrics by name; None for an undefined metric.
    """
    logits = torch.stack([output.logits for output in outputs])
    targets = torch.stack([output.target for output in outputs])
    loss = float(task.loss(logits, targets))
    if not task.classes:
        return {"loss": loss, **_scores(outputs, task)}
    predictions = LabeledPredictions(
        task.classes,
        targets.numpy(),
        logits.softmax(dim=1).numpy(),
        tuple(str(position) for position in range(len(outputs))),
    )
    scores = weighted_scores(predictions, np.ones((1, len(outputs))))
    values = {name: float(scores[name][0]) for name in METRICS}
    return {
        "loss": loss,
        **{name: None if math.isnan(value) else value for name, value in values.items()},
    }


def validation_values(metrics: Mapping[str, float | None], task: Task) -> dict[str, Any]:
    """Return the fields of an `Epoch` that hold the loss and the metrics.

    Args:
        metrics: the result of `validation_metrics`; empty without validation slides.
        task: the task.
    """
    others = {} if task.classes else {n: metrics[n] for n in task.monitored if n in metrics}
    return {
        "val_loss": metrics.get("loss"),
        "val_accuracy": metrics.get("accuracy"),
        "val_weighted_f1": metrics.get("weighted_f1"),
        "val_auroc": metrics.get("auroc_macro"),
        "val_scores": others,
    }


def _scores(outputs: Sequence[ValidationOutput], task: Task) -> dict[str, float | None]:
    """Return the scores of a task without classes, by name."""
    scores = task.scores(
        [output.slide for output in outputs],
        [task.answer(output.logits) for output in outputs],
        resamples=0,
    )
    return {name: scores[name].value for name in task.monitored if name in scores}
