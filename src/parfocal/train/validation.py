"""Metrics on the validation slides of an epoch."""

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own short name)
from torch import Tensor

from parfocal.metrics import LabeledPredictions, weighted_scores

METRICS = ("accuracy", "weighted_f1", "auroc_macro")


def validation_metrics(
    outputs: Sequence[tuple[Tensor, int]], labels: tuple[str, ...]
) -> dict[str, float | None]:
    """Compute the cross-entropy and the metrics of an epoch.

    Args:
        outputs: logits and class of each validation slide.
        labels: class labels in the order of the logits.

    Returns:
        The cross-entropy as "loss", and the metrics by name; None for an undefined metric.
    """
    logits = torch.stack([logits for logits, _ in outputs])
    targets = torch.tensor([target for _, target in outputs])
    predictions = LabeledPredictions(
        labels,
        targets.numpy(),
        logits.softmax(dim=1).numpy(),
        tuple(str(position) for position in range(len(outputs))),
    )
    scores = weighted_scores(predictions, np.ones((1, len(outputs))))
    values = {name: float(scores[name][0]) for name in METRICS}
    return {
        "loss": float(F.cross_entropy(logits, targets)),
        **{name: None if math.isnan(value) else value for name, value in values.items()},
    }
