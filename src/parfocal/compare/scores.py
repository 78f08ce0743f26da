"""Scores of the compared models: means over runs, intervals over patients, gaps to the best.

Patients are resampled with replacement. All models use the same resamples, so the gap between two
models is a paired difference.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import stdev

import numpy as np
from jaxtyping import Float

from parfocal.metrics import (
    BLOCK_SIZE,
    LabeledPredictions,
    Score,
    exact_interval,
    no_interval_reason,
    weighted_scores,
)

COMPARED_METRICS = ("weighted_f1", "accuracy", "auroc_macro")
STAGES = ("total", "read", "encode", "model")

Timing = Mapping[str, Mapping[str, float]]  # device -> stage -> seconds


@dataclass(frozen=True)
class ModelResult:
    """Predictions and cost of a model over all its runs.

    Args:
        name: name of the model.
        runs: predictions on the test slides, one entry per run.
        macs: mean multiply-accumulates per test slide, including encoding.
        patches: mean number of patches encoded per test slide.
        seconds: mean seconds per slide read from its file, by device and stage.
        failed: number of test slides without a prediction.
        reason: why the model failed; None if it did not.
        classes: number of test slides of each class, each slide counted once.
    """

    name: str
    runs: tuple[LabeledPredictions, ...] = ()
    macs: float = 0.0
    patches: float = 0.0
    seconds: Timing = field(default_factory=dict)
    failed: int = 0
    reason: str | None = None
    classes: Mapping[str, int] = field(default_factory=dict)


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
    def text(self) -> str:
        """The score with its interval, or why it is undefined."""
        if np.isnan(self.value):
            return "not defined"
        has_interval = not np.isnan(self.low)
        return Score(
            self.value,
            self.low if has_interval else None,
            self.high if has_interval else None,
            self.undefined_resamples,
            self.reason,
            resamples=self.resamples,
        ).text


@dataclass(frozen=True)
class ComparisonRow:
    """One model of the comparison.

    Args:
        result: predictions and cost.
        scores: by metric; empty if the model failed.
        gap_to_best: score of the best model minus the score of this one, in the metric that ranks
            the models; None for the best model.
    """

    result: ModelResult
    scores: Mapping[str, ScoreSummary] = field(default_factory=dict)
    gap_to_best: ScoreSummary | None = None


def pool_runs(runs: Sequence[LabeledPredictions]) -> LabeledPredictions:
    """Return the predictions of all runs of a model together.

    Args:
        runs: at least one.
    """
    return LabeledPredictions(
        runs[0].labels,
        np.concatenate([run.truth for run in runs]),
        np.concatenate([run.probabilities for run in runs]),
        tuple(group for run in runs for group in run.groups),
    )


def score_results(
    results: Sequence[ModelResult], metric: str, *, resamples: int = 2000, seed: int = 0
) -> list[ComparisonRow]:
    """Score all models on the same resamples of patients, and compare them with the best one.

    Args:
        results: the models.
        metric: metric that ranks them.
        resamples: number of resamples for the intervals.
        seed: seed of the resampling.
    """
    done = [result for result in results if result.reason is None]
    if not done:
        return [ComparisonRow(result) for result in results]
    patients = sorted({group for result in done for run in result.runs for group in run.groups})
    uniform = np.full(len(patients), 1 / len(patients))
    draws = np.random.default_rng(seed).multinomial(len(patients), uniform, resamples)
    weights = np.concatenate(
        [np.ones((1, len(patients))), draws.astype(float)]
    )  # row 0: no resampling
    values = {result.name: _resampled_scores(result.runs, patients, weights) for result in done}
    best = max(values, key=lambda name: float(_mean_over_runs(values[name][metric])[0]))
    rows = []
    for result in results:
        if result.reason is not None:
            rows.append(ComparisonRow(result))
            continue
        own = values[result.name]
        scores = {name: _summarize(each) for name, each in own.items()}
        scores["accuracy"] = _with_exact_interval(scores["accuracy"], result.runs)
        gap = _mean_over_runs(values[best][metric]) - _mean_over_runs(own[metric])
        gap_to_best = None if result.name == best else _summarize(gap[:, None])
        rows.append(ComparisonRow(result, scores, gap_to_best))
    return rows


def _resampled_scores(
    runs: Sequence[LabeledPredictions], patients: Sequence[str], weights: Float[np.ndarray, "r p"]
) -> dict[str, Float[np.ndarray, "r runs"]]:
    """Compute each metric for each row of patient weights and each run."""
    values: dict[str, list[Float[np.ndarray, " r"]]] = {name: [] for name in COMPARED_METRICS}
    for run in runs:
        slide_weights = weights[:, np.searchsorted(patients, run.groups)]
        empty = slide_weights.sum(axis=1) == 0  # no patient of this run was drawn
        slide_weights[empty] = 1
        step = max(1, BLOCK_SIZE // run.probabilities.size)
        starts = range(0, len(slide_weights), step)
        parts = [weighted_scores(run, slide_weights[start : start + step]) for start in starts]
        for name in COMPARED_METRICS:
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


def _with_exact_interval(score: ScoreSummary, runs: Sequence[LabeledPredictions]) -> ScoreSummary:
    """Replace the interval of an accuracy with the exact one, with one trial per patient."""
    patients = len({group for run in runs for group in run.groups})
    low, high = exact_interval(score.value * patients, patients)
    return ScoreSummary(score.value, score.sd, low, high)
