import numpy as np
import pytest
from sklearn.metrics import (
    average_precision_score,
    precision_recall_curve,
    roc_auc_score,
    roc_curve,
)

from parfocal.explain.report.curves import calibration, micro, precision_recall, roc


@pytest.fixture(params=[0, 1, 2])
def labeled_scores(request):
    rng = np.random.default_rng(request.param)
    return rng.random(60) < 0.4, rng.random(60).round(1)  # with many ties


def test_the_roc_curve_is_that_of_scikit_learn(labeled_scores):
    truth, score = labeled_scores
    line = roc(truth, score, "a")
    false, true, _ = roc_curve(truth, score, drop_intermediate=False)
    assert np.allclose(line.x, false)
    assert np.allclose(line.y, true)
    assert np.trapezoid(line.y, line.x) == pytest.approx(roc_auc_score(truth, score))


def test_the_precision_curve_is_that_of_scikit_learn(labeled_scores):
    truth, score = labeled_scores
    line = precision_recall(truth, score, "a")
    precision, recall, _ = precision_recall_curve(truth, score)
    until = np.searchsorted(recall[::-1], 1.0) + 1  # ours ends when all are found
    assert np.allclose(line.x, recall[::-1][:until])
    assert np.allclose(line.y[1:], precision[::-1][1:until])
    area = sum(np.diff(line.x) * line.y[1:])
    assert area == pytest.approx(average_precision_score(truth, score))


def test_micro_averaging_pools_every_pair_of_slide_and_class():
    positive, score = micro(np.array([0, 2]), np.array([[0.7, 0.2, 0.1], [0.3, 0.3, 0.4]]))
    assert positive.tolist() == [True, False, False, False, False, True]
    assert score.tolist() == [0.7, 0.2, 0.1, 0.3, 0.3, 0.4]


def test_calibration_compares_confidence_with_accuracy():
    probabilities = np.array([[0.95, 0.05]] * 3 + [[0.41, 0.59]])
    line, error = calibration(np.array([0, 0, 1, 1]), probabilities, "predictions")
    assert line.x == pytest.approx((0.59, 0.95))
    assert line.y == pytest.approx((1.0, 2 / 3))
    assert error == pytest.approx(0.25 * 0.41 + 0.75 * (0.95 - 2 / 3))


def test_a_class_without_slides_has_flat_curves():
    none = np.zeros(3, dtype=bool)
    assert set(roc(none, np.array([0.1, 0.5, 0.9]), "a").y) == {0.0}
    assert set(precision_recall(none, np.array([0.1, 0.5, 0.9]), "a").y) == {0.0}
