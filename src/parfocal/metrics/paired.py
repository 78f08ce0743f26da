"""Scores of several models on the same test slides: intervals over patients, gaps to the best.

Patients are resampled with replacement. All models use the same resamples, so the gap between two
models is a paired difference.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np
from jaxtyping import Float

from parfocal.metrics.bootstrap import BLOCK_SIZE, Score, no_interval_reason
from parfocal.metrics.delong import PairedTest, delong_test
from parfocal.metrics.exact import exact_interval
from parfocal.metrics.names import is_error
from parfocal.metrics.predictions import LabeledPredictions
from parfocal.metrics.resampled import Resamplable

COMPARED_METRICS = ("weighted_f1", "accuracy", "auroc_macro")


@dataclass(frozen=True)
class ScoreSummary:
    """A score over runs and patients.

    Args:
        value: mean over the runs; NaN where it is undefined.
        sd: standard deviation over the runs; None for a single run.
        low: lower end of the 95% interval over patients; NaN where there is no interval.
        high: upper end of the 95% interval over patients.
        reason: why there is no interval.
        undefined_resamples: number of resamples in which the score is undefined in all runs.
        resamples: number of resamples; 0 for an exact interval.
    """

    value: float
    sd: float | None
    low: float
    high: float
    reason: str | None = None
    undefined_resamples: int = 0
    resamples: int = 0

    @property
    def score(self) -> Score:
        """The mean with its interval over patients."""
        if np.isnan(self.value):
            return Score(None, reason="not defined")
        has_interval = not np.isnan(self.low)
        return Score(
            self.value,
            self.low if has_interval else None,
            self.high if has_interval else None,
            self.undefined_resamples,
            self.reason,
            resamples=self.resamples,
        )

    @property
    def text(self) -> str:
        """The score with its interval, or why it is undefined."""
        return self.score.text

    @property
    def short(self) -> str:
        """The score with its interval for the cell of a table; see `Score.short`."""
        return self.score.short


@dataclass(frozen=True)
class PairedScores:
    """The scores of one model, and how far it is behind the best one.

    Args:
        scores: by metric.
        gap_to_best: by how much the best model is better, in the metric that ranks the models;
            None for the best model.
        delong: test of the AUROC of the best model against that of this one; None for the best
            model, and for more than two classes.
    """

    scores: Mapping[str, ScoreSummary]
    gap_to_best: ScoreSummary | None
    delong: PairedTest | None = None


def paired_scores(
    runs: Mapping[str, Sequence[Resamplable]],
    metric: str,
    *,
    names: Sequence[str] = COMPARED_METRICS,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, PairedScores]:
    """Score all models on the same resamples of patients, and compare them with the best one.

    Args:
        runs: predictions of each model, one entry per seed or fold, by the name of the model.
        metric: metric that ranks them, one of `names`.
        names: metrics to compute.
        resamples: number of resamples for the intervals.
        seed: seed of the resampling.
    """
    if not runs:
        return {}
    patients = sorted({group for each in runs.values() for run in each for group in run.groups})
    uniform = np.full(len(patients), 1 / len(patients))
    draws = np.random.default_rng(seed).multinomial(len(patients), uniform, resamples)
    weights = np.concatenate(
        [np.ones((1, len(patients))), draws.astype(float)]
    )  # row 0: no resampling
    values = {
        name: _resampled_scores(each, patients, weights, names) for name, each in runs.items()
    }
    sign = -1 if is_error(metric) else 1
    means = {name: float(_mean_over_runs(own[metric])[0]) for name, own in values.items()}
    best = max(means, key=lambda name: -np.inf if np.isnan(means[name]) else sign * means[name])
    paired = {}
    for name, own in values.items():
        scores = {key: _summarize(each) for key, each in own.items()}
        if "accuracy" in scores:
            scores["accuracy"] = _with_exact_interval(scores["accuracy"], runs[name])
        gap = sign * (_mean_over_runs(values[best][metric]) - _mean_over_runs(own[metric]))
        is_best = name == best
        paired[name] = PairedScores(
            scores,
            None if is_best else _summarize(gap[:, None]),
            None if is_best else _delong(runs[best], runs[name]),
        )
    return paired


def _delong(best: Sequence[Resamplable], other: Sequence[Resamplable]) -> PairedTest | None:
    """Compare the AUROCs of two models of two classes on the same patients.

    The score of a patient is the mean probability of the second class over slides and runs. With
    folds, patients are scored by different models, which are never ranked together: no test.
    """
    runs = [run for run in (*best, *other) if isinstance(run, LabeledPredictions)]
    if (
        len(runs) < len(best) + len(other)
        or any(len(run.labels) != 2 for run in runs)
        or len({frozenset(r.groups) for r in runs}) > 1
    ):
        return None
    one, two = _patient_scores(runs[: len(best)]), _patient_scores(runs[len(best) :])
    common = sorted(one.keys() & two.keys())
    truth = np.array([one[patient][0] for patient in common], dtype=bool)
    first, second = (np.array([each[p][1] for p in common], dtype=float) for each in (one, two))
    return delong_test(truth, first, second)


def _patient_scores(runs: Sequence[LabeledPredictions]) -> dict[str, tuple[bool, float]]:
    """Return the class and the mean score of each patient of one class."""
    rows: dict[str, list[tuple[int, float]]] = {}
    for run in runs:
        values = zip(run.groups, run.truth.tolist(), run.probabilities[:, 1].tolist(), strict=True)
        for patient, truth, score in values:
            rows.setdefault(patient, []).append((truth, score))
    return {
        patient: (bool(own[0][0]), fmean(score for _, score in own))
        for patient, own in rows.items()
        if len({truth for truth, _ in own}) == 1
    }


def _resampled_scores(
    runs: Sequence[Resamplable],
    patients: Sequence[str],
    weights: Float[np.ndarray, "r p"],
    names: Sequence[str],
) -> dict[str, Float[np.ndarray, "r runs"]]:
    """Compute each metric for each row of patient weights and each run."""
    values: dict[str, list[Float[np.ndarray, " r"]]] = {name: [] for name in names}
    for run in runs:
        slide_weights = weights[:, np.searchsorted(patients, run.groups)]
        empty = slide_weights.sum(axis=1) == 0  # no patient of this run was drawn
        slide_weights[empty] = 1
        step = max(1, BLOCK_SIZE // run.size)
        starts = range(0, len(slide_weights), step)
        parts = [run.weighted(slide_weights[start : start + step]) for start in starts]
        for name in names:
            scores = np.concatenate([part[name] for part in parts])
            values[name].append(np.where(empty, np.nan, scores))
    return {name: np.stack(each, axis=1) for name, each in values.items()}


def _mean_over_runs(values: Float[np.ndarray, "r runs"]) -> Float[np.ndarray, " r"]:
    """Return the mean over the runs in which the score is defined, NaN if there is none."""
    defined = ~np.isnan(values)
    means: Float[np.ndarray, " r"] = np.full(len(values), np.nan)
    sums, counts = np.where(defined, values, 0).sum(axis=1), defined.sum(axis=1)
    np.divide(sums, counts, out=means, where=counts > 0)
    return means


def _summarize(values: Float[np.ndarray, "r runs"]) -> ScoreSummary:
    means = _mean_over_runs(values)
    by_run = values[0][~np.isnan(values[0])]
    sd = stdev(by_run.tolist()) if len(by_run) > 1 else None
    defined = means[1:][~np.isnan(means[1:])]
    counts = len(means) - 1 - len(defined), len(means) - 1
    reason = no_interval_reason(means[1:])
    low, high = np.percentile(defined, [2.5, 97.5]) if reason is None else (np.nan, np.nan)
    return ScoreSummary(float(means[0]), sd, float(low), float(high), reason, *counts)


def _with_exact_interval(score: ScoreSummary, runs: Sequence[Resamplable]) -> ScoreSummary:
    """Replace the interval of an accuracy with the exact one, with one trial per patient."""
    patients = len({group for run in runs for group in run.groups})
    low, high = exact_interval(score.value * patients, patients)
    return ScoreSummary(score.value, score.sd, low, high)
