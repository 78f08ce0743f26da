"""Scores of predicted numbers, against scipy and scikit-learn."""

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import mean_absolute_error, r2_score

from parfocal.metrics import REGRESSION_METRICS, RegressionPredictions, regression_scores
from parfocal.metrics.regression import weighted_regression_scores


def predictions(n=40, *, decimals=8):
    generator = np.random.default_rng(2)
    truth = generator.normal(size=n)
    predicted = np.round(truth + generator.normal(size=n), decimals)
    return RegressionPredictions(predicted, np.round(truth, decimals), tuple(map(str, range(n))))


@pytest.mark.parametrize("decimals", [8, 0])  # without and with ties
def test_the_scores_are_those_of_scipy_and_scikit_learn(decimals):
    given = predictions(decimals=decimals)
    scores = regression_scores(given, resamples=100)
    expected = {
        "mae": mean_absolute_error(given.truth, given.predicted),
        "r2": r2_score(given.truth, given.predicted),
        "pearson": pearsonr(given.truth, given.predicted).statistic,
        "spearman": spearmanr(given.truth, given.predicted).statistic,
    }
    assert set(scores) == set(REGRESSION_METRICS)
    for name, score in scores.items():
        assert score.value == pytest.approx(expected[name])
        assert score.low < score.value < score.high


def test_a_patient_that_is_drawn_twice_counts_twice():
    given = predictions(20, decimals=0)
    repeats = np.random.default_rng(1).multinomial(20, np.full(20, 1 / 20))
    rows = np.repeat(np.arange(20), repeats)
    written = RegressionPredictions(given.predicted[rows], given.truth[rows], given.groups)
    expected = weighted_regression_scores(written, np.ones((1, 20)))
    for name, values in weighted_regression_scores(given, repeats[None].astype(float)).items():
        assert values[0] == pytest.approx(expected[name][0])


def test_equal_values_and_missing_ones_are_undefined_with_the_reason():
    ids = tuple("abc")
    constant = RegressionPredictions(np.array([1.0, 2, 3]), np.array([0.1, 0.1, 0.1]), ids)
    scores = regression_scores(constant)
    assert scores["mae"].value == pytest.approx(1.9)
    assert scores["r2"].text == scores["pearson"].text == "undefined: all true values are equal"
    same = regression_scores(RegressionPredictions(np.ones(3), np.array([1.0, 2, 3]), ids))
    assert same["spearman"].text == "undefined: all predicted values are equal"
    unknown = RegressionPredictions(np.ones(3), np.full(3, np.nan), ids)
    assert regression_scores(unknown)["mae"].text == ("undefined: no prediction with a known value")


def test_slides_of_a_patient_are_averaged():
    given = RegressionPredictions(np.array([1.0, 3, 5]), np.array([2.0, 2, 4]), tuple("aab"))
    patients = given.by_patient()
    assert (patients.predicted.tolist(), patients.truth.tolist()) == ([2, 5], [2, 4])
