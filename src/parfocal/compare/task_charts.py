"""Charts of models without classes: survival by predicted risk, numbers, ROC of each label."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict

import numpy as np
from markupsafe import Markup
from scipy.stats import rankdata

from parfocal.compare.scores import ComparisonRow
from parfocal.explain.report.charts import Axis, Line, line_chart
from parfocal.explain.report.clinical import clinical_charts
from parfocal.explain.report.curves import roc
from parfocal.metrics import (
    LabeledPredictions,
    Resamplable,
    ResamplableNumbers,
    ResamplableParts,
    ResamplableSurvival,
    risk_groups,
)


def task_charts(rows: Sequence[ComparisonRow]) -> list[tuple[str, Markup]]:
    """Draw what the models predict against what is true, each chart with its title.

    Args:
        rows: models that did not fail.
    """
    charts = []
    for row in rows:
        targets: dict[str, list[Resamplable]] = {}
        for run in row.result.runs:
            for target, predictions in _targets(run):
                targets.setdefault(target, []).append(predictions)
        for target, runs in targets.items():
            of = f", {target}" if target else ""
            drawn = (*_survival(runs), *_numbers(runs), *_labels(runs, target))
            charts += [(f"{row.result.name}{of}: {title}", chart) for title, chart in drawn]
    return charts


def _targets(predictions: Resamplable, target: str = "") -> Iterator[tuple[str, Resamplable]]:
    """Yield the predictions of each target with its name; "" if there is only one."""
    if not isinstance(predictions, ResamplableParts):
        yield target, predictions
        return
    for part in predictions.parts:
        name = next(iter(part.names.values())).partition("/")[2]
        yield from _targets(part.predictions, name or target)


def _survival(runs: Sequence[Resamplable]) -> list[tuple[str, Markup]]:
    """Draw the survival of patients by the rank of their risk among those of their run.

    Risks of different runs are not comparable.
    """
    found = [run.predictions.known() for run in runs if isinstance(run, ResamplableSurvival)]
    patients = [each.by_patient() for each in found]
    if not patients:
        return []
    groups = risk_groups(
        np.concatenate([rankdata(each.risk) / len(each.risk) for each in patients]),
        np.concatenate([each.time for each in patients]),
        np.concatenate([each.event for each in patients]),
    )
    return clinical_charts({"survival": asdict(groups)})


def _numbers(runs: Sequence[Resamplable]) -> list[tuple[str, Markup]]:
    """Draw predicted against true numbers, the points of all runs together."""
    known = [run.predictions.known() for run in runs if isinstance(run, ResamplableNumbers)]
    if not known:
        return []
    x, y = (
        tuple(np.concatenate([getattr(each, name) for each in known]).tolist())
        for name in ("truth", "predicted")
    )
    ends = Axis("true value", high=None, low=None), Axis("predicted value", high=None, low=None)
    chart = line_chart([Line("slides", x, y)], *ends, joined=False)
    return [("predicted and true values", chart)]


def _labels(runs: Sequence[Resamplable], target: str) -> list[tuple[str, Markup]]:
    """Draw the ROC curve of a label in each run; one of several classes has no chart here."""
    lines = [
        roc(run.truth == 1, np.ascontiguousarray(run.probabilities[:, 1]), f"run {number}")
        for number, run in enumerate(runs, start=1)
        if isinstance(run, LabeledPredictions)
        and len(run.labels) == 2
        and len(np.unique(run.truth)) == 2
    ]
    if not lines:
        return []
    rates = Axis("false positive rate"), Axis("true positive rate")
    return [("ROC", line_chart(lines, *rates, diagonal=True))]
