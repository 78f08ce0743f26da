"""The averaged ROC curve has the AUROC of the table as its area."""

import numpy as np
import pytest

from parfocal.compare.roc import average_roc
from parfocal.compare.scores import ModelResult, score_results
from parfocal.metrics import LabeledPredictions


def run(seed: int, classes: int, *, digits: int) -> LabeledPredictions:
    generator = np.random.default_rng(seed)
    truth = np.arange(17) % classes
    chances = generator.dirichlet(np.ones(classes), 17) + 0.4 * np.eye(classes)[truth]
    probabilities = np.round(chances / chances.sum(axis=1, keepdims=True), digits)
    return LabeledPredictions(
        tuple("abc")[:classes], truth, probabilities, tuple(map(str, range(17)))
    )


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("digits", [1, 6])  # with one digit, many probabilities are tied
def test_the_area_is_the_auroc_of_the_table(classes: int, digits: int):
    runs = tuple(run(seed, classes, digits=digits) for seed in range(4))
    (row,) = score_results([ModelResult("m", runs)], "auroc_macro", resamples=3)
    curve = average_roc(runs, "m")
    assert np.trapezoid(curve.y, curve.x) == pytest.approx(row.scores["auroc_macro"].value)


def test_runs_are_not_ranked_together():
    """Each run ranks perfectly, at another scale; pooled, the AUROC would be 0.5 + 1/4."""
    truth, patients = np.array([0, 1]), ("p", "q")
    low = np.array([[0.99, 0.01], [0.9, 0.1]])
    runs = tuple(
        LabeledPredictions(("a", "b"), truth, each, patients) for each in (low, low[:, ::-1][::-1])
    )
    curve = average_roc(runs, "m")
    assert np.trapezoid(curve.y, curve.x) == 1


def test_a_run_without_a_class_is_left_out():
    whole = run(0, 2, digits=6)
    one_class = LabeledPredictions(("a", "b"), whole.truth * 0, whole.probabilities, whole.groups)
    assert average_roc((whole, one_class), "m") == average_roc((whole,), "m")
    assert average_roc((one_class,), "m").x == ()
