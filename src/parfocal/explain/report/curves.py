"""Compute the curves of a classifier: ROC, precision-recall and calibration."""

import numpy as np
from jaxtyping import Bool, Float, Int

from parfocal.explain.report.charts import Line
from parfocal.metrics import calibration_error, reliability

BINS = 10  # of the calibration curve


def roc(truth: Bool[np.ndarray, " n"], score: Float[np.ndarray, " n"], name: str) -> Line:
    """Compute the ROC curve: true positive rate against false positive rate.

    Args:
        truth: whether each item is positive.
        score: score of each item, higher for positive.
        name: name of the curve.

    >>> line = roc(np.array([True, False]), np.array([0.9, 0.1]), "x")
    >>> line.x, line.y
    ((0.0, 0.0, 1.0), (0.0, 1.0, 1.0))
    """
    true, false = _counts_above_thresholds(truth, score)
    return Line(name, _points(0, false / max(1, false[-1])), _points(0, true / max(1, true[-1])))


def precision_recall(
    truth: Bool[np.ndarray, " n"], score: Float[np.ndarray, " n"], name: str
) -> Line:
    """Compute precision against recall, up to the threshold at which recall reaches 1.

    Args:
        truth: whether each item is positive.
        score: score of each item, higher for positive.
        name: name of the curve.
    """
    true, false = _counts_above_thresholds(truth, score)
    end = np.searchsorted(true, true[-1]) + 1
    precision, recall = (true / (true + false))[:end], (true / max(1, true[-1]))[:end]
    return Line(name, _points(0, recall), _points(precision[0], precision))


def micro(
    truth: Int[np.ndarray, " n"], probabilities: Float[np.ndarray, "n c"]
) -> tuple[Bool[np.ndarray, " m"], Float[np.ndarray, " m"]]:
    """Return each pair of slide and class as a binary item, for micro-averaged curves."""
    positive: Bool[np.ndarray, "n c"] = np.arange(probabilities.shape[1]) == truth[:, None]
    return positive.ravel(), probabilities.ravel()


def calibration(
    truth: Int[np.ndarray, " n"], probabilities: Float[np.ndarray, "n c"], name: str
) -> tuple[Line, float]:
    """Compute the calibration curve and the expected calibration error of the predicted class.

    Predictions are grouped into `BINS` of equal width by the probability of the predicted class.
    The error is the mean distance between the accuracy and the mean probability of a bin, weighted
    by its number of predictions.

    Returns:
        Accuracy against mean probability, one point per bin that is not empty; and the error.
    """
    bins = reliability(truth, probabilities, bins=BINS)
    x, y = (tuple(getattr(each, name) for each in bins) for name in ("confidence", "accuracy"))
    return Line(name, x, y), calibration_error(bins) or 0.0


def _counts_above_thresholds(
    truth: Bool[np.ndarray, " n"], score: Float[np.ndarray, " n"]
) -> tuple[Int[np.ndarray, " t"], Int[np.ndarray, " t"]]:
    """Count positive and negative items at or above each distinct score, highest score first."""
    order = np.argsort(-score, kind="stable")
    last = np.append(np.diff(score[order]) != 0, True)  # of each run of equal scores
    return np.cumsum(truth[order])[last], np.cumsum(~truth[order])[last]


def _points(start: float, values: Float[np.ndarray, " n"]) -> tuple[float, ...]:
    return (float(start), *(float(value) for value in values))
