"""The charts of a report: training, evaluation, and accuracy against cost."""

from collections.abc import Sequence

from markupsafe import Markup

from parfocal.explain.report.charts import Axis, Line, line_chart
from parfocal.explain.report.clinical import clinical_charts
from parfocal.explain.report.curves import calibration, micro, precision_recall, roc
from parfocal.explain.report.sources import Evaluation, Run
from parfocal.metrics import METRICS, score_label

# Columns of metrics.csv -> names in the legend.
LOSSES = {"train_loss": "training", "val_loss": "validation"}
VALIDATION_METRICS = {
    "val_weighted_f1": METRICS["weighted_f1"],
    "val_auroc": METRICS["auroc_macro"],
}


def training_charts(run: Run) -> list[Markup]:
    """Draw the losses and the validation metrics over the epochs."""
    charts = []
    scores = {
        name: score_label(name.removeprefix("val_"))
        for name in (run.epochs[0] if run.epochs else ())
        if name.startswith("val_") and name not in ("val_loss", "val_accuracy")
    }
    metrics = VALIDATION_METRICS if scores.keys() & VALIDATION_METRICS.keys() else scores
    for name, columns in (("loss", LOSSES), ("validation metric", metrics)):
        lines = [_over_epochs(run, column, label) for column, label in columns.items()]
        lines = [line for line in lines if len(line.x) > 1]
        if lines:
            epochs = Axis("epoch", high=None, integer=True)
            below = any(min(line.y) < 0 for line in lines)  # as R² may be
            values = Axis(name, high=None, low=None if below else 0.0)
            charts.append(line_chart(lines, epochs, values))
    return charts


def _over_epochs(run: Run, column: str, name: str) -> Line:
    values = [(row["epoch"], row.get(column)) for row in run.epochs]
    points = [(x, y) for x, y in values if x is not None and y is not None]
    return Line(name, tuple(x for x, _ in points), tuple(y for _, y in points))


def evaluation_charts(evaluation: Evaluation) -> list[tuple[str, Markup]]:
    """Draw ROC, precision-recall and calibration curves, and `clinical_charts`, with titles."""
    others = clinical_charts(evaluation.metrics)
    if not len(evaluation.truth):
        return others
    items = {
        label: (evaluation.truth == index, evaluation.probabilities[:, index])
        for index, label in enumerate(evaluation.labels)
    } | {"micro-averaged": micro(evaluation.truth, evaluation.probabilities)}
    rocs = [roc(truth, score, name) for name, (truth, score) in items.items()]
    precisions = [precision_recall(truth, score, name) for name, (truth, score) in items.items()]
    bins, error = calibration(evaluation.truth, evaluation.probabilities, "predictions")
    rates = Axis("false positive rate"), Axis("true positive rate")
    confidence, accuracy = Axis("predicted probability"), Axis("share of correct predictions")
    return [
        ("ROC", line_chart(rocs, *rates, diagonal=True)),
        ("Precision and recall", line_chart(precisions, Axis("recall"), Axis("precision"))),
        (
            f"Calibration (expected calibration error {error:.3f})",
            line_chart([bins], confidence, accuracy, diagonal=True, joined=False),
        ),
        *others,
    ]


def cost_chart(evaluations: Sequence[Evaluation]) -> Markup | None:
    """Draw AUROC against the share of patches visited; None for fewer than two models."""
    points = []
    for evaluation in evaluations:
        share = evaluation.metrics["cost"]["share_patches"]
        if not evaluation.labels:
            continue
        auroc = evaluation.metrics["slides"]["scores"]["auroc_macro"]["value"]
        if share is not None and auroc is not None:
            name = f"{evaluation.metrics['model']['name']} ({evaluation.name})"
            points.append(Line(name, (100 * share["mean"],), (auroc,)))
    if len(points) < 2:
        return None
    across = Axis("visited patches, % of all", high=None)
    return line_chart(points, across, Axis(METRICS["auroc_macro"]), joined=False)
