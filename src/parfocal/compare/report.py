"""A comparison as one page that stands alone: scores, accuracy against cost, curves, confusion."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from markupsafe import Markup

from parfocal.compare.picture import front
from parfocal.compare.table import COMPARED_METRICS, STAGES, Measure, Row, between, notes_of
from parfocal.explain.report.charts import Axis, line_chart
from parfocal.explain.report.curves import calibration, micro, precision_recall, roc
from parfocal.explain.report.template import render
from parfocal.metrics import METRICS


@dataclass(frozen=True)
class Model:
    """A model as the page tells it; `confusion` has a row of counts for each true class."""

    name: str
    scores: Mapping[str, str]
    behind: str
    patches: float
    macs: float
    seconds: Mapping[str, Mapping[str, float]]
    runs: int
    slides: int
    unanswered: int
    labels: tuple[str, ...]
    confusion: list[tuple[str, list[int]]]


def page_of(rows: Sequence[Row], metric: str, picture: bytes) -> str:
    """Give the page.

    Args:
        rows: of the models, those that failed among them.
        metric: by which the best was found, and that is drawn.
        picture: of accuracy against cost, a PNG.
    """
    done = [row for row in rows if row.result.reason is None]
    return render(
        "comparison.html",
        failed=[row.result for row in rows if row.result.reason is not None],
        models=[_model(row) for row in done],
        metric=metric,
        metrics={name: METRICS[name] for name in COMPARED_METRICS},
        stages=STAGES,
        devices=sorted({device for row in done for device in row.result.seconds}),
        notes=notes_of(rows),
        picture=f"data:image/png;base64,{base64.b64encode(picture).decode()}",
        front=[name for name, *_ in front([_point(row, metric) for row in done])],
        curves=_curves(done),
    )


def _model(row: Row) -> Model:
    result = row.result
    truth, chances = _pooled(row)
    labels = result.runs[0].labels
    counts = np.zeros((len(labels), len(labels)), dtype=int)
    np.add.at(counts, (truth, chances.argmax(axis=1)), 1)
    return Model(
        name=result.name,
        scores={name: _score(row.measures[name]) for name in COMPARED_METRICS},
        behind="best" if row.behind is None else between(row.behind),
        patches=result.patches,
        macs=result.macs,
        seconds=result.seconds,
        runs=len(result.runs),
        slides=len(truth),
        unanswered=result.failed,
        labels=labels,
        confusion=list(zip(labels, counts.tolist(), strict=True)),
    )


def _score(measure: Measure) -> str:
    spread = "" if measure.sd is None else f", ± {measure.sd:.3f} over runs"
    return between(measure) + spread


def _point(row: Row, metric: str) -> tuple[str, float, float, float, float]:
    measure = row.measures[metric]
    return row.result.name, row.result.macs, measure.value, measure.low, measure.high


def _pooled(row: Row) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, "n c"]]:
    """Put the answers of all runs together."""
    runs = row.result.runs
    truth = np.concatenate([run.truth for run in runs])
    return truth, np.concatenate([run.probabilities for run in runs])


def _curves(rows: Sequence[Row]) -> list[tuple[str, Markup]]:
    """Draw ROC, precision against recall, and calibration, a line for each model."""
    pooled = {row.result.name: _pooled(row) for row in rows}
    asked = {name: micro(*each) for name, each in pooled.items()}
    rocs = [roc(*each, name) for name, each in asked.items()]
    precisions = [precision_recall(*each, name) for name, each in asked.items()]
    answers = [calibration(*each, name)[0] for name, each in pooled.items()]
    said, right = Axis("probability of the answer"), Axis("share that was right")
    return [
        ("ROC", line_chart(rocs, Axis("false positives"), Axis("true positives"), diagonal=True)),
        ("Precision and recall", line_chart(precisions, Axis("recall"), Axis("precision"))),
        ("Calibration", line_chart(answers, said, right, diagonal=True)),
    ]
