"""The ROC curve of a model over its runs, whose area is the AUROC of the table."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from parfocal.explain.report.charts import Line
from parfocal.explain.report.curves import roc
from parfocal.metrics import LabeledPredictions


def average_roc(runs: Sequence[LabeledPredictions], name: str) -> Line:
    """Average the ROC curves of the runs, and of their classes, at each false positive rate.

    Runs in which a class has no slide are left out, since their AUROC is undefined. With two
    classes, the curve is that of the second class.

    Args:
        runs: predictions of each run.
        name: name of the curve.

    Returns:
        The curve; without points if the AUROC is undefined in every run.
    """
    curves = [
        roc(run.truth == c, run.probabilities[:, c], name)
        for run in runs
        if len(np.unique(run.truth)) == len(run.labels)
        for c in (range(len(run.labels)) if len(run.labels) > 2 else (1,))
    ]
    if not curves:
        return Line(name, (), ())
    rates = np.unique(np.concatenate([np.array(curve.x) for curve in curves]))
    # A curve is vertical at a threshold, so each rate has a point below and one above.
    below, above = np.mean([_limits(curve, rates) for curve in curves], axis=0)
    return Line(
        name,
        tuple(np.repeat(rates, 2).tolist()),
        tuple(np.stack([below, above], axis=1).ravel().tolist()),
    )


def _limits(curve: Line, rates: Float[np.ndarray, " n"]) -> Float[np.ndarray, "2 n"]:
    """Return the lowest and the highest true positive rate of a curve at false positive rates."""
    x, y = np.array(curve.x), np.array(curve.y)
    first, last = np.searchsorted(x, rates, "left"), np.searchsorted(x, rates, "right") - 1
    between = np.interp(rates, x, y)
    on_curve = x[np.minimum(first, len(x) - 1)] == rates
    return np.stack(
        [
            np.where(on_curve, y[np.minimum(first, len(x) - 1)], between),
            np.where(on_curve, y[last], between),
        ]
    )
