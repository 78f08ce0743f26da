"""Predictions of any task, whose scores can be computed in each resample of the patients."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int64

from parfocal.metrics.bootstrap import Score, patient_weights, score_with_interval
from parfocal.metrics.regression import (
    REGRESSION_METRICS,
    RegressionPredictions,
    weighted_regression_scores,
)
from parfocal.metrics.survival import (
    SURVIVAL_METRICS,
    SurvivalCurves,
    SurvivalPredictions,
    weighted_survival_scores,
)


@runtime_checkable
class Resamplable(Protocol):
    """Predictions with known truth."""

    @property
    def groups(self) -> tuple[str, ...]:
        """Patient id of each row."""

    @property
    def size(self) -> int:
        """Number of values that are computed for each row of weights."""

    def weighted(self, weights: Float[np.ndarray, "r n"]) -> dict[str, Float[np.ndarray, " r"]]:
        """Compute each score for each row of weights; NaN where it is undefined.

        Args:
            weights: non-negative weight of each prediction; no row sums to 0.
        """


@dataclass(frozen=True)
class ResamplableSurvival:
    """Predicted risks of slides, or of patients.

    Args:
        predictions: risks, times and events.
        curves: predicted survival curves; None if there are none.
    """

    predictions: SurvivalPredictions
    curves: SurvivalCurves | None = None

    @property
    def groups(self) -> tuple[str, ...]:
        """Patient id of each row."""
        return self.predictions.groups

    @property
    def size(self) -> int:
        """Number of values that are computed for each row of weights."""
        return 2 * len(self.groups)

    def weighted(self, weights: Float[np.ndarray, "r n"]) -> dict[str, Float[np.ndarray, " r"]]:
        """Compute each score; see `Resamplable`."""
        keep = np.isfinite(self.predictions.risk) & np.isfinite(self.predictions.time)
        curves = self.curves
        if curves is not None:
            curves = SurvivalCurves(curves.times, curves.survival[keep])
        known = self.predictions.rows(keep)
        return score_rows(
            weights,
            keep,
            SURVIVAL_METRICS,
            lambda own: weighted_survival_scores(known, curves, own),
        )


@dataclass(frozen=True)
class ResamplableNumbers:
    """Predicted numbers of slides, or of patients.

    Args:
        predictions: predicted and true numbers.
    """

    predictions: RegressionPredictions

    @property
    def groups(self) -> tuple[str, ...]:
        """Patient id of each row."""
        return self.predictions.groups

    @property
    def size(self) -> int:
        """Number of values that are computed for each row of weights."""
        return 4 * len(self.groups)

    def weighted(self, weights: Float[np.ndarray, "r n"]) -> dict[str, Float[np.ndarray, " r"]]:
        """Compute each score; see `Resamplable`."""
        keep = np.isfinite(self.predictions.predicted) & np.isfinite(self.predictions.truth)
        known = self.predictions.known()
        return score_rows(
            weights, keep, REGRESSION_METRICS, lambda own: weighted_regression_scores(known, own)
        )


@dataclass(frozen=True)
class Part:
    """One of several targets.

    Args:
        rows: rows for which the target is known.
        predictions: predictions for these rows.
        names: names of its scores in the whole, by their own names; others are left out.
    """

    rows: Int64[np.ndarray, " m"]
    predictions: Resamplable
    names: Mapping[str, str]


@dataclass(frozen=True)
class ResamplableParts:
    """Predictions of several targets.

    Args:
        groups: patient id of each row.
        parts: the targets.
        means: names of scores that are the mean of others, by name; undefined if one of them is.
    """

    groups: tuple[str, ...]
    parts: tuple[Part, ...]
    means: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Number of values that are computed for each row of weights."""
        return max(1, *(part.predictions.size for part in self.parts))

    def weighted(self, weights: Float[np.ndarray, "r n"]) -> dict[str, Float[np.ndarray, " r"]]:
        """Compute each score; see `Resamplable`."""
        found: dict[str, Float[np.ndarray, " r"]] = {}
        for part in self.parts:
            keep = np.zeros(len(self.groups), dtype=bool)
            keep[part.rows] = True
            scores = score_rows(weights, keep, part.names, part.predictions.weighted)
            found |= {part.names[name]: values for name, values in scores.items()}
        for name, parts in self.means.items():
            found[name] = np.mean([found[each] for each in parts], axis=0)
        return found


@dataclass(frozen=True)
class ResamplableDifference:
    """Two predictions for the same slides, in the same order.

    Args:
        first: predictions.
        second: predictions whose scores are subtracted.
    """

    first: Resamplable
    second: Resamplable

    @property
    def groups(self) -> tuple[str, ...]:
        """Patient id of each row."""
        return self.first.groups

    @property
    def size(self) -> int:
        """Number of values that are computed for each row of weights."""
        return self.first.size + self.second.size

    def weighted(self, weights: Float[np.ndarray, "r n"]) -> dict[str, Float[np.ndarray, " r"]]:
        """Compute the difference of each score; see `Resamplable`."""
        first, second = self.first.weighted(weights), self.second.weighted(weights)
        return {name: first[name] - second[name] for name in first}


def score_rows(
    weights: Float[np.ndarray, "r n"],
    keep: Bool[np.ndarray, " n"],
    names: Mapping[str, str],
    compute: Callable[[Float[np.ndarray, "r m"]], Mapping[str, Float[np.ndarray, " r"]]],
) -> dict[str, Float[np.ndarray, " r"]]:
    """Compute scores from some of the rows; NaN in resamples that have none of them.

    Args:
        weights: weight of each row.
        keep: which rows to use.
        names: names of the scores to return.
        compute: computes scores from weights of these rows, no row of which sums to 0.
    """
    own = weights[:, keep]
    empty = own.sum(axis=1) == 0
    if not keep.any():
        return {name: np.full(len(weights), np.nan) for name in names}
    own[empty] = 1
    scores = compute(own)
    return {name: np.where(empty, np.nan, scores[name]) for name in names}


def resampled_scores(
    predictions: Resamplable,
    names: Mapping[str, str],
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Score]:
    """Compute scores with their 95% percentile bootstrap intervals over patients.

    Args:
        predictions: at least one.
        names: why a score can be undefined, by name of the score.
        resamples: number of bootstrap resamples.
        seed: seed of the resampling.
    """
    groups = predictions.groups
    point = predictions.weighted(np.ones((1, len(groups))))
    blocks = [
        predictions.weighted(weights)
        for weights in patient_weights(groups, resamples, seed, row_size=predictions.size)
    ]
    return {
        name: score_with_interval(
            float(point[name][0]),
            np.concatenate([block[name] for block in blocks] or [np.empty(0)]),
            reason,
        )
        for name, reason in names.items()
    }
