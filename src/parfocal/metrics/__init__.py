"""Metrics of a classifier, with confidence intervals over patients."""

from parfocal.metrics.bootstrap import (
    BLOCK_SIZE,
    Score,
    mean_with_interval,
    no_interval_reason,
)
from parfocal.metrics.exact import exact_interval, proportion_with_interval
from parfocal.metrics.predictions import LabeledPredictions, average_by_patient, confusion_matrix
from parfocal.metrics.scores import (
    METRICS,
    auroc_by_stratum,
    class_counts,
    compute_scores,
    point_scores,
    small_classes,
)
from parfocal.metrics.weighted import weighted_scores

__all__ = [
    "BLOCK_SIZE",
    "METRICS",
    "LabeledPredictions",
    "Score",
    "auroc_by_stratum",
    "average_by_patient",
    "class_counts",
    "compute_scores",
    "confusion_matrix",
    "exact_interval",
    "mean_with_interval",
    "no_interval_reason",
    "point_scores",
    "proportion_with_interval",
    "small_classes",
    "weighted_scores",
]
