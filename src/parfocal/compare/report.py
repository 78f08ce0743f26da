"""A comparison as one HTML page: scores, accuracy against cost, curves, confusion matrices."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from parfocal.compare.curve import Curve
from parfocal.compare.curve_table import curve_notes, curve_rows
from parfocal.compare.picture import pareto_front, point_of
from parfocal.compare.roc import average_roc
from parfocal.compare.scores import (
    STAGES,
    ComparisonRow,
    ScoreSummary,
    labeled_runs,
    pool_runs,
    score_names,
)
from parfocal.compare.table import AUROC_RULE, class_text, column_notes, warnings
from parfocal.compare.task_charts import task_charts
from parfocal.explain.report.charts import Axis, line_chart
from parfocal.explain.report.curves import calibration, micro, precision_recall
from parfocal.explain.report.template import render
from parfocal.metrics import confusion_matrix, is_error, score_label

POOLED = (
    "The area under it is the AUROC of the table. For the other curves, all runs of a model are "
    "pooled; precision-recall is micro-averaged: each pair of slide and class is one binary "
    "prediction."
)
TASK_CURVES = "The runs of a model are pooled; risks are ranked in each run, on its test patients."


@dataclass(frozen=True)
class ModelSection:
    """What the page shows of one model.

    Args:
        name: name of the model.
        classes: number of test slides of each class, as text.
        scores: formatted score by metric.
        gap_to_best: formatted gap, or "best".
        patches: mean number of patches encoded per slide.
        macs: mean multiply-accumulates per slide; None if unknown.
        seconds: mean seconds per slide, by device and stage.
        runs: number of runs.
        slides: number of predictions over all runs.
        unanswered: number of test slides without a prediction.
        labels: class names; empty for a task without classes.
        confusion: for each true class, its name and the counts of the predicted classes; empty for
            a task without classes.
    """

    name: str
    classes: str
    scores: Mapping[str, str]
    gap_to_best: str
    patches: float
    macs: float | None
    seconds: Mapping[str, Mapping[str, float]]
    runs: int
    slides: int
    unanswered: int
    labels: tuple[str, ...]
    confusion: list[tuple[str, list[int]]]


def comparison_page(
    rows: Sequence[ComparisonRow],
    metric: str,
    picture: bytes,
    *,
    unreadable: Mapping[str, str] | None = None,
    curve: Curve | None = None,
    svg: str = "",
) -> str:
    """Return the HTML page.

    Args:
        rows: the models, including those that failed.
        metric: metric that ranks the models and is plotted.
        picture: PNG of accuracy against cost.
        unreadable: reason of each slide that is left out, by slide id.
        curve: accuracy against share; None if it was not measured.
        svg: picture of the curve.
    """
    done = [row for row in rows if row.result.reason is None]
    known = [(row, row.result.macs) for row in done if row.result.macs is not None]
    points = [point_of(row, macs, metric) for row, macs in known]
    front = pareto_front(points, lowest=is_error(metric))
    labeled = [row for row in done if labeled_runs(row.result)]
    curves = _curves(labeled) if labeled else task_charts(done)
    return render(
        "comparison.html",
        failed=[row.result for row in rows if row.result.reason is not None],
        unreadable=unreadable or {},
        models=[_section(row) for row in done],
        metric=metric,
        metrics={name: score_label(name) for name in score_names(rows)},
        stages=STAGES,
        devices=sorted({device for row in done for device in row.result.seconds}),
        warnings=warnings(rows),
        notes=column_notes(rows),
        curves_note=f"{AUROC_RULE} {POOLED}" if labeled else TASK_CURVES,
        picture=f"data:image/png;base64,{_base64(picture)}",
        front=[point.name for point in front],
        curves=curves,
        share_curve="" if curve is None else f"data:image/svg+xml;base64,{_base64(svg.encode())}",
        share_rows=[] if curve is None else curve_rows(curve),
        share_notes=[] if curve is None else curve_notes(curve),
    )


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _section(row: ComparisonRow) -> ModelSection:
    result, labeled = row.result, labeled_runs(row.result)
    pooled = pool_runs(labeled) if labeled else None
    return ModelSection(
        name=result.name,
        classes=class_text(result),
        scores={name: _format_score(score) for name, score in row.scores.items()},
        gap_to_best=row.gap_text,
        patches=result.patches,
        macs=result.macs,
        seconds=result.seconds,
        runs=len(result.runs),
        slides=sum(len(run.groups) for run in result.runs),
        unanswered=result.failed,
        labels=() if pooled is None else pooled.labels,
        confusion=[]
        if pooled is None
        else list(zip(pooled.labels, confusion_matrix(pooled).tolist(), strict=True)),
    )


def _format_score(score: ScoreSummary) -> str:
    sd = "" if score.sd is None else f", ± {score.sd:.3f} over runs"
    return score.short + sd


def _curves(rows: Sequence[ComparisonRow]) -> list[tuple[str, Markup]]:
    """Draw ROC, precision-recall and calibration curves, one line per model."""
    runs = {row.result.name: labeled_runs(row.result) for row in rows}
    pooled = {name: pool_runs(each) for name, each in runs.items()}
    binary = {name: micro(each.truth, each.probabilities) for name, each in pooled.items()}
    rocs = [average_roc(each, name) for name, each in runs.items()]
    precisions = [precision_recall(*each, name) for name, each in binary.items()]
    calibrations = [
        calibration(each.truth, each.probabilities, name)[0] for name, each in pooled.items()
    ]
    confidence, accuracy = Axis("predicted probability"), Axis("share of correct predictions")
    return [
        (
            "ROC",
            line_chart(
                [each for each in rocs if each.x],
                Axis("false positive rate"),
                Axis("true positive rate"),
                diagonal=True,
            ),
        ),
        ("Precision and recall", line_chart(precisions, Axis("recall"), Axis("precision"))),
        ("Calibration", line_chart(calibrations, confidence, accuracy, diagonal=True)),
    ]
