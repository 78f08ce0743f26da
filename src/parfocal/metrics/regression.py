"""Scores of predicted numbers, with bootstrap intervals over patients."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import rankdata

from parfocal.metrics.bootstrap import Score, patient_weights, score_with_interval

# The name in files and in code -> the label in reports and logs.
REGRESSION_METRICS = {
    "mae": "mean absolute error",
    "r2": "R²",
    "pearson": "Pearson correlation",
    "spearman": "Spearman correlation",
}


@dataclass(frozen=True)
class RegressionPredictions:
    """Predicted and true numbers of slides, or of patients.

    Args:
        predicted: predicted number.
        truth: true number; NaN where unknown.
        groups: patient id of each row; the bootstrap draws all rows of a patient together.
    """

    predicted: Float[np.ndarray, " n"]
    truth: Float[np.ndarray, " n"]
    groups: tuple[str, ...]

    def known(self) -> "RegressionPredictions":
        """Return the rows whose numbers are known."""
        keep = np.isfinite(self.predicted) & np.isfinite(self.truth)
        groups = tuple(np.array(self.groups, dtype=object)[keep].tolist())
        return RegressionPredictions(self.predicted[keep], self.truth[keep], groups)

    def by_patient(self) -> "RegressionPredictions":
        """Return one row per patient, with the means over its slides."""
        patients, member = np.unique(np.array(self.groups), return_inverse=True)
        count = np.bincount(member)
        predicted, truth = (
            np.bincount(member, weights=values) / count for values in (self.predicted, self.truth)
        )
        return RegressionPredictions(predicted, truth, tuple(patients.tolist()))


def regression_scores(
    predictions: RegressionPredictions, *, resamples: int = 2000, seed: int = 0
) -> dict[str, Score]:
    """Compute every metric of `REGRESSION_METRICS` with its 95% bootstrap interval over patients.

    R² is 1 - (squared errors) / (squared distances from the mean). Rows whose truth is unknown are
    left out.

    Args:
        predictions: of slides or patients.
        resamples: number of bootstrap resamples.
        seed: seed of the resampling.
    """
    known = predictions.known()
    size = len(known.truth)
    if not size:
        reason = "undefined: no prediction with a known value"
        return {name: Score(None, reason=reason) for name in REGRESSION_METRICS}
    values = weighted_regression_scores(known, np.ones((1, size)))
    blocks = [
        weighted_regression_scores(known, weights)
        for weights in patient_weights(known.groups, resamples, seed, row_size=4 * size)
    ]
    return {
        name: score_with_interval(
            float(values[name][0]),
            np.concatenate([block[name] for block in blocks] or [np.empty(0)]),
            _undefined_reason(known),
        )
        for name in REGRESSION_METRICS
    }


def weighted_regression_scores(
    known: RegressionPredictions, weights: Float[np.ndarray, "r n"]
) -> dict[str, Float[np.ndarray, " r"]]:
    """Compute every metric of `REGRESSION_METRICS` for each row of weights; NaN where undefined.

    Args:
        known: predictions whose numbers are known.
        weights: weight of each prediction; no row sums to 0.
    """
    total, truth, predicted = weights.sum(axis=1), known.truth, known.predicted
    error = weights @ (predicted - truth) ** 2
    mean = (weights @ truth) / total
    spread = (weights * (truth - mean[:, None]) ** 2).sum(axis=1)
    r2: Float[np.ndarray, " r"] = np.full(len(weights), np.nan)
    distinct = _varies(spread, truth)
    np.divide(error, spread, out=r2, where=distinct)
    ranks = [_weighted_ranks(values, weights) for values in (predicted, truth)]
    return {
        "mae": (weights @ np.abs(predicted - truth)) / total,
        "r2": 1 - r2,
        "pearson": _correlation(predicted[None], truth[None], weights),
        "spearman": _correlation(ranks[0], ranks[1], weights),
    }


def _varies(
    spread: Float[np.ndarray, " r"], values: Float[np.ndarray, "..."]
) -> Bool[np.ndarray, " r"]:
    """Return where a sum of squares is more than rounding."""
    varies: Bool[np.ndarray, " r"] = (
        spread > 1e-20 * max(1.0, float((values**2).max())) * values.shape[-1]
    )
    return varies


def _weighted_ranks(
    values: Float[np.ndarray, " n"], weights: Float[np.ndarray, "r n"]
) -> Float[np.ndarray, "r n"]:
    """Return the rank of each value in each resample; ties share the mean of their ranks."""
    place = rankdata(values, method="dense").astype(np.int64) - 1
    counts = np.zeros((len(weights), int(place.max()) + 1))
    np.add.at(counts.T, place, weights.T)
    below = np.cumsum(counts, axis=1) - counts
    return np.asarray((below + (counts + 1) / 2)[:, place])


def _correlation(
    x: Float[np.ndarray, "p n"], y: Float[np.ndarray, "p n"], weights: Float[np.ndarray, "r n"]
) -> Float[np.ndarray, " r"]:
    """Compute the weighted correlation of two variables; NaN where one is constant."""
    total = weights.sum(axis=1, keepdims=True)
    x = x - (weights * x).sum(axis=1, keepdims=True) / total
    y = y - (weights * y).sum(axis=1, keepdims=True) / total
    xx, yy, xy = ((weights * each).sum(axis=1) for each in (x * x, y * y, x * y))
    result: Float[np.ndarray, " r"] = np.full(len(weights), np.nan)
    varies = _varies(xx, x) & _varies(yy, y)
    np.divide(xy, np.sqrt(xx * yy), out=result, where=varies)
    return np.asarray(np.clip(result, -1, 1))


def _undefined_reason(known: RegressionPredictions) -> str:
    constant = "true" if np.ptp(known.truth) == 0 else "predicted"
    return f"undefined: all {constant} values are equal"
