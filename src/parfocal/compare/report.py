"""A comparison as one HTML page: scores, accuracy against cost, curves, confusion matrices."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from markupsafe import Markup

from parfocal.compare.picture import pareto_front, point_of
from parfocal.compare.scores import COMPARED_METRICS, STAGES, ComparisonRow, ScoreSummary
from parfocal.compare.table import column_notes, with_interval
from parfocal.explain.report.charts import Axis, line_chart
from parfocal.explain.report.curves import calibration, micro, precision_recall, roc
from parfocal.explain.report.template import render
from parfocal.metrics import METRICS


@dataclass(frozen=True)
class ModelSection:
    """What the page shows of one model.

    Args:
        name: name of the model.
        scores: formatted score by metric.
        gap_to_best: formatted gap, or "best".
        patches: mean number of patches encoded per slide.
        macs: mean multiply-accumulates per slide.
        seconds: mean seconds per slide, by device and stage.
        runs: number of runs.
        slides: number of predictions over all runs.
        unanswered: number of test slides without a prediction.
        labels: class names.
        confusion: for each true class, its name and the counts of the predicted classes.
    """

    name: str
    scores: Mapping[str, str]
    gap_to_best: str
    patches: float
    macs: float
    seconds: Mapping[str, Mapping[str, float]]
    runs: int
    slides: int
    unanswered: int
    labels: tuple[str, ...]
    confusion: list[tuple[str, list[int]]]


def comparison_page(rows: Sequence[ComparisonRow], metric: str, picture: bytes) -> str:
    """Return the HTML page.

    Args:
        rows: the models, including those that failed.
        metric: metric that ranks the models and is plotted.
        picture: PNG of accuracy against cost.
    """
    done = [row for row in rows if row.result.reason is None]
    front = pareto_front([point_of(row, row.result.macs, metric) for row in done])
    return render(
        "comparison.html",
        failed=[row.result for row in rows if row.result.reason is not None],
        models=[_section(row) for row in done],
        metric=metric,
        metrics={name: METRICS[name] for name in COMPARED_METRICS},
        stages=STAGES,
        devices=sorted({device for row in done for device in row.result.seconds}),
        notes=column_notes(rows),
        picture=f"data:image/png;base64,{base64.b64encode(picture).decode()}",
        front=[point.name for point in front],
        curves=_curves(done),
    )


def _section(row: ComparisonRow) -> ModelSection:
    result = row.result
    truth, probabilities = _pool_runs(row)
    labels = result.runs[0].labels
    counts = np.zeros((len(labels), len(labels)), dtype=int)
    np.add.at(counts, (truth, probabilities.argmax(axis=1)), 1)
    return ModelSection(
        name=result.name,
        scores={name: _format_score(row.scores[name]) for name in COMPARED_METRICS},
        gap_to_best="best" if row.gap_to_best is None else with_interval(row.gap_to_best),
        patches=result.patches,
        macs=result.macs,
        seconds=result.seconds,
        runs=len(result.runs),
        slides=len(truth),
        unanswered=result.failed,
        labels=labels,
        confusion=list(zip(labels, counts.tolist(), strict=True)),
    )


def _format_score(score: ScoreSummary) -> str:
    sd = "" if score.sd is None else f", ± {score.sd:.3f} over runs"
    return with_interval(score) + sd


def _pool_runs(row: ComparisonRow) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, "n c"]]:
    """Concatenate the true classes and the probabilities of all runs."""
    runs = row.result.runs
    truth = np.concatenate([run.truth for run in runs])
    return truth, np.concatenate([run.probabilities for run in runs])


def _curves(rows: Sequence[ComparisonRow]) -> list[tuple[str, Markup]]:
    """Draw ROC, precision-recall and calibration curves, one line per model."""
    pooled = {row.result.name: _pool_runs(row) for row in rows}
    binary = {name: micro(*each) for name, each in pooled.items()}
    rocs = [roc(*each, name) for name, each in binary.items()]
    precisions = [precision_recall(*each, name) for name, each in binary.items()]
    calibrations = [calibration(*each, name)[0] for name, each in pooled.items()]
    confidence, accuracy = Axis("predicted probability"), Axis("share of correct predictions")
    return [
        (
            "ROC",
            line_chart(
                rocs, Axis("false positive rate"), Axis("true positive rate"), diagonal=True
            ),
        ),
        ("Precision and recall", line_chart(precisions, Axis("recall"), Axis("precision"))),
        ("Calibration", line_chart(calibrations, confidence, accuracy, diagonal=True)),
    ]
