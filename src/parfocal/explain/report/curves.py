"""How good probabilities are, as curves: ROC, precision against recall, calibration."""

import numpy as np
from jaxtyping import Bool, Float, Int

from parfocal.explain.report.charts import Line

BINS = 10  # of the calibration


def roc(truth: Bool[np.ndarray, " n"], chance: Float[np.ndarray, " n"], name: str) -> Line:
    """Give the share of true ones found against that of false ones taken for true.

    >>> line = roc(np.array([True, False]), np.array([0.9, 0.1]), "x")
    >>> line.x, line.y
    ((0.0, 0.0, 1.0), (0.0, 1.0, 1.0))
    """
    right, wrong = _taken(truth, chance)
    return Line(name, _from(0, wrong / max(1, wrong[-1])), _from(0, right / max(1, right[-1])))


def precision_recall(
    truth: Bool[np.ndarray, " n"], chance: Float[np.ndarray, " n"], name: str
) -> Line:
    """Give the share of true ones among those taken, against the share of true ones found."""
    right, wrong = _taken(truth, chance)
    until = np.searchsorted(right, right[-1]) + 1  # when all are found, the rest is only false
    precision, recall = (right / (right + wrong))[:until], (right / max(1, right[-1]))[:until]
    return Line(name, _from(0, recall), _from(precision[0], precision))


def micro(
    truth: Int[np.ndarray, " n"], chances: Float[np.ndarray, "n c"]
) -> tuple[Bool[np.ndarray, " m"], Float[np.ndarray, " m"]]:
    """Take every pair of slide and class for a question of its own."""
    asked: Bool[np.ndarray, "n c"] = np.arange(chances.shape[1]) == truth[:, None]
    return asked.ravel(), chances.ravel()


def calibration(
    truth: Int[np.ndarray, " n"], chances: Float[np.ndarray, "n c"], name: str
) -> tuple[Line, float]:
    """Give how often answers of a probability were right, and the expected calibration error.

    LabeledPredictions are put in `BINS` of equal width by the probability of what was answered; the error is
    the mean distance of a bin's share of right answers from its mean probability.
    """
    said = chances.max(axis=1)
    right = chances.argmax(axis=1) == truth
    bins = np.minimum((said * BINS).astype(int), BINS - 1)
    filled = np.unique(bins)
    x = np.array([said[bins == each].mean() for each in filled])
    y = np.array([right[bins == each].mean() for each in filled])
    share = np.array([(bins == each).mean() for each in filled])
    return Line(name, tuple(x.tolist()), tuple(y.tolist())), float((share * np.abs(x - y)).sum())


def _taken(
    truth: Bool[np.ndarray, " n"], chance: Float[np.ndarray, " n"]
) -> tuple[Int[np.ndarray, " t"], Int[np.ndarray, " t"]]:
    """Count true and false ones at or above each threshold, highest first; ties come together."""
    order = np.argsort(-chance, kind="stable")
    last = np.append(np.diff(chance[order]) != 0, True)
    return np.cumsum(truth[order])[last], np.cumsum(~truth[order])[last]


def _from(start: float, values: Float[np.ndarray, " n"]) -> tuple[float, ...]:
    return (float(start), *(float(value) for value in values))
