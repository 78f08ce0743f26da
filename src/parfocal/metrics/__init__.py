"""Metrics of a classifier, with confidence intervals over patients."""

from parfocal.metrics.bootstrap import BLOCK_SIZE, Score, mean_with_interval
from parfocal.metrics.predictions import LabeledPredictions, average_by_patient, confusion_matrix
from parfocal.metrics.scores import METRICS, auroc_by_stratum, compute_scores, point_scores
from parfocal.metrics.weighted import weighted_scores

__all__ = [
    "BLOCK_SIZE",
    "METRICS",
    "LabeledPredictions",
    "Score",
    "auroc_by_stratum",
    "average_by_patient",
    "compute_scores",
    "confusion_matrix",
    "mean_with_interval",
    "point_scores",
    "weighted_scores",
]
