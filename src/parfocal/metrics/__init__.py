"""Metrics of predictions, with confidence intervals over patients."""

from parfocal.metrics.bootstrap import (
    BLOCK_SIZE,
    Score,
    mean_with_interval,
    no_interval_reason,
)
from parfocal.metrics.calibration import (
    ReliabilityBin,
    calibration_error,
    fit_temperature,
    reliability,
)
from parfocal.metrics.decision import DecisionCurve, decision_curve
from parfocal.metrics.delong import PairedTest, delong_interval, delong_test
from parfocal.metrics.exact import exact_interval, proportion_with_interval
from parfocal.metrics.froc import IGNORED, OUTSIDE, Froc, SlideDetections, froc
from parfocal.metrics.names import SCORE_LABELS, is_error, score_label
from parfocal.metrics.notes import interval_notes
from parfocal.metrics.predictions import LabeledPredictions, average_by_patient, confusion_matrix
from parfocal.metrics.product_limit import (
    RiskGroups,
    SurvivalBaseline,
    SurvivalGroup,
    breslow,
    kaplan_meier,
    log_rank,
    risk_groups,
)
from parfocal.metrics.regression import (
    REGRESSION_METRICS,
    RegressionPredictions,
    regression_scores,
)
from parfocal.metrics.resampled import (
    Part,
    Resamplable,
    ResamplableDifference,
    ResamplableNumbers,
    ResamplableParts,
    ResamplableSurvival,
    resampled_scores,
)
from parfocal.metrics.scores import (
    METRICS,
    auroc_by_stratum,
    class_counts,
    compute_scores,
    point_scores,
    small_classes,
)
from parfocal.metrics.survival import (
    SURVIVAL_METRICS,
    SurvivalCurves,
    SurvivalPredictions,
    concordance,
    survival_scores,
)
from parfocal.metrics.thresholds import (
    THRESHOLD_METRICS,
    choose_threshold,
    threshold_scores,
)
from parfocal.metrics.weighted import weighted_scores

__all__ = [
    "BLOCK_SIZE",
    "IGNORED",
    "METRICS",
    "OUTSIDE",
    "REGRESSION_METRICS",
    "SCORE_LABELS",
    "SURVIVAL_METRICS",
    "THRESHOLD_METRICS",
    "DecisionCurve",
    "Froc",
    "LabeledPredictions",
    "PairedTest",
    "Part",
    "RegressionPredictions",
    "ReliabilityBin",
    "Resamplable",
    "ResamplableDifference",
    "ResamplableNumbers",
    "ResamplableParts",
    "ResamplableSurvival",
    "RiskGroups",
    "Score",
    "SlideDetections",
    "SurvivalBaseline",
    "SurvivalCurves",
    "SurvivalGroup",
    "SurvivalPredictions",
    "auroc_by_stratum",
    "average_by_patient",
    "breslow",
    "calibration_error",
    "choose_threshold",
    "class_counts",
    "compute_scores",
    "concordance",
    "confusion_matrix",
    "decision_curve",
    "delong_interval",
    "delong_test",
    "exact_interval",
    "fit_temperature",
    "froc",
    "interval_notes",
    "is_error",
    "kaplan_meier",
    "log_rank",
    "mean_with_interval",
    "no_interval_reason",
    "point_scores",
    "proportion_with_interval",
    "regression_scores",
    "reliability",
    "resampled_scores",
    "risk_groups",
    "score_label",
    "small_classes",
    "survival_scores",
    "threshold_scores",
    "weighted_scores",
]
