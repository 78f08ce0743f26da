"""Scores and costs of the compared models."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from parfocal.metrics import LabeledPredictions, PairedTest, Resamplable
from parfocal.metrics.paired import COMPARED_METRICS, ScoreSummary, paired_scores

STAGES = ("total", "read", "encode", "model")

Timing = Mapping[str, Mapping[str, float]]  # device -> stage -> seconds


@dataclass(frozen=True)
class ModelResult:
    """Predictions and cost of a model over all its runs.

    Args:
        name: name of the model.
        runs: predictions on the test slides, one entry per run.
        macs: mean multiply-accumulates per test slide, including encoding; None if unknown.
        patches: mean number of patches encoded per test slide.
        seconds: mean seconds per slide read from its file, by device and stage.
        failed: number of test slides without a prediction.
        reason: why the model failed; None if it did not.
        classes: number of test slides of each class, each slide counted once; with survival, with
            and without the event; "slides" for other tasks without classes.
        encoder: names of the encoders, as `--encoder` takes them; None for a model that takes
            pixels.
    """

    name: str
    runs: tuple[Resamplable, ...] = ()
    macs: float | None = 0.0
    patches: float = 0.0
    seconds: Timing = field(default_factory=dict)
    failed: int = 0
    reason: str | None = None
    classes: Mapping[str, int] = field(default_factory=dict)
    encoder: str | None = None


@dataclass(frozen=True)
class ComparisonRow:
    """One model of the comparison.

    Args:
        result: predictions and cost.
        scores: by metric; empty if the model failed.
        gap_to_best: by how much the best model is better, in the metric that ranks the models;
            None for the best model.
        delong: test of the AUROC of the best model against that of this one, of two classes.
    """

    result: ModelResult
    scores: Mapping[str, ScoreSummary] = field(default_factory=dict)
    gap_to_best: ScoreSummary | None = None
    delong: PairedTest | None = None

    @property
    def gap_text(self) -> str:
        """The gap with its interval, and DeLong's test of the AUROC; "best" for the best model.

        Notes below the table say why there is no interval.
        """
        if self.gap_to_best is None:
            return "best"
        test = "" if self.delong is None else self.delong.text
        return f"{self.gap_to_best.short}; AUROC {test}" if test else self.gap_to_best.short


def labeled_runs(result: ModelResult) -> tuple[LabeledPredictions, ...]:
    """Return the predictions of a model with classes; none for a task without classes."""
    return tuple(run for run in result.runs if isinstance(run, LabeledPredictions))


def score_names(rows: Sequence[ComparisonRow]) -> tuple[str, ...]:
    """Return the names of the scores of a comparison, in order."""
    return next((tuple(row.scores) for row in rows if row.scores), COMPARED_METRICS)


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
    results: Sequence[ModelResult],
    metric: str,
    *,
    names: Sequence[str] = COMPARED_METRICS,
    resamples: int = 2000,
    seed: int = 0,
) -> list[ComparisonRow]:
    """Score all models on the same resamples of patients, and compare them with the best one.

    Args:
        results: the models.
        metric: metric that ranks them, one of `names`.
        names: metrics to compute.
        resamples: number of resamples for the intervals.
        seed: seed of the resampling.
    """
    runs = {result.name: result.runs for result in results if result.reason is None}
    paired = paired_scores(runs, metric, names=names, resamples=resamples, seed=seed)
    rows = []
    for result in results:
        if result.reason is not None:
            rows.append(ComparisonRow(result))
            continue
        own = paired[result.name]
        rows.append(ComparisonRow(result, own.scores, own.gap_to_best, own.delong))
    return rows


__all__ = [
    "COMPARED_METRICS",
    "STAGES",
    "ComparisonRow",
    "ModelResult",
    "ScoreSummary",
    "Timing",
    "labeled_runs",
    "pool_runs",
    "score_names",
    "score_results",
]
