"""Reliability, temperature and net benefit."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from sklearn.calibration import calibration_curve

from parfocal.metrics import (
    calibration_error,
    decision_curve,
    fit_temperature,
    reliability,
)
from parfocal.metrics.calibration import TEMPERATURES


def overconfident(n=300, temperature=2.5, seed=0):
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(n, 3)) * 2
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    truth = np.array([generator.choice(3, p=row) for row in chances])
    return logits * temperature, truth


def test_the_curve_is_that_of_scikit_learn():
    logits, truth = overconfident()
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    bins = reliability(truth, chances)
    correct, confidence = chances.argmax(axis=1) == truth, chances.max(axis=1)
    accuracy, mean = calibration_curve(correct, confidence, n_bins=10)
    assert [each.accuracy for each in bins] == pytest.approx(accuracy)
    assert [each.confidence for each in bins] == pytest.approx(mean)
    place = np.minimum((confidence * 10).astype(int), 9)
    gaps = [
        abs(correct[place == each].sum() - confidence[place == each].sum()) / len(truth)
        for each in range(10)
    ]
    assert calibration_error(bins) == pytest.approx(sum(gaps))
    assert calibration_error(()) is None


def test_the_temperature_has_the_smallest_cross_entropy():
    logits, truth = overconfident()
    found = fit_temperature(logits, truth)
    grid = np.geomspace(0.3, 10, 400)
    losses = [
        float(F.cross_entropy(torch.tensor(logits / each), torch.tensor(truth))) for each in grid
    ]
    assert found == pytest.approx(grid[int(np.argmin(losses))], rel=0.02)
    assert found == pytest.approx(2.5, rel=0.2)


def test_without_a_best_temperature_nothing_changes_or_the_end_of_the_range_is_taken():
    certain = np.eye(2)[[0, 1, 1]] * 3
    assert fit_temperature(certain, np.array([0, 1, 1])) == 1
    assert fit_temperature(certain, np.array([1, 0, 0])) == pytest.approx(TEMPERATURES[1])
    with pytest.raises(ValueError, match="there is no slide to fit a temperature on"):
        fit_temperature(np.zeros((0, 2)), np.zeros(0, dtype=int))


def test_the_net_benefit_is_that_of_the_definition():
    truth = np.array([True, True, False, False, False])
    score = np.array([0.9, 0.3, 0.6, 0.2, 0.1])
    curve = decision_curve(truth, score)
    at = curve.thresholds.index(0.25)
    assert curve.model[at] == pytest.approx(2 / 5 - 1 / 5 * (0.25 / 0.75))
    assert curve.everyone[at] == pytest.approx(2 / 5 - 3 / 5 * (0.25 / 0.75))
    assert decision_curve(truth[:0], score[:0]) is None
