import time

import numpy as np
import pytest

from parfocal.metrics import LabeledPredictions, compute_scores, mean_with_interval

from .conftest import random_predictions


def test_the_interval_of_a_share_is_the_binomials():
    predictions = random_predictions(2, 400, ties=False)
    correct = (predictions.predicted == predictions.truth).astype(float)
    accuracy = mean_with_interval(correct, predictions.groups, resamples=4000)
    deviation = np.sqrt(accuracy.value * (1 - accuracy.value) / 400)
    # A 2.5% quantile of 4000 draws has itself a standard error of about 0.042 deviations, and
    # accuracy comes in steps of 1/400.
    margin = 4 * 0.042 * deviation + 1 / 400
    assert accuracy.low == pytest.approx(accuracy.value - 1.96 * deviation, abs=margin)
    assert accuracy.high == pytest.approx(accuracy.value + 1.96 * deviation, abs=margin)


@pytest.mark.slow
def test_the_interval_of_auroc_covers_the_true_one():
    truth, covered, trials = np.repeat([0, 1], 40), 0, 200
    exact = 0.76025  # P(X > Y) = Phi(1 / sqrt 2) for normals one deviation apart
    generator = np.random.default_rng(0)
    for _ in range(trials):
        logit = generator.normal(truth.astype(float))
        probabilities = np.stack([1 / (1 + np.exp(logit)), 1 / (1 + np.exp(-logit))], axis=1)
        predictions = LabeledPredictions(
            ("a", "b"), truth, probabilities, tuple(map(str, range(80)))
        )
        auroc = compute_scores(predictions, resamples=300)["auroc_macro"]
        covered += auroc.low <= exact <= auroc.high
    # Four standard errors of a count of 200 at 95%, and 2% for the bootstrap's own bias.
    assert covered / trials == pytest.approx(0.95, abs=4 * np.sqrt(0.95 * 0.05 / trials) + 0.02)


def test_a_patients_slides_are_drawn_together():
    """Ten equal slides of a patient hold no more evidence than one, so the interval is equal."""
    alone = random_predictions(2, 40, ties=False)
    tenfold = LabeledPredictions(
        alone.labels,
        np.repeat(alone.truth, 10),
        np.repeat(alone.probabilities, 10, axis=0),
        tuple(np.repeat(alone.groups, 10).tolist()),
    )
    one, ten = (compute_scores(each)["auroc_macro"] for each in (alone, tenfold))
    assert (one.low, one.high) == (ten.low, ten.high)
    assert one.value == pytest.approx(ten.value, abs=1e-12)


def test_same_seed_same_interval():
    predictions = random_predictions(3, 40)
    assert compute_scores(predictions, seed=0) == compute_scores(predictions, seed=0)
    assert (
        compute_scores(predictions, seed=0)["auroc_macro"]
        != compute_scores(predictions, seed=1)["auroc_macro"]
    )


def test_drawing_in_blocks_changes_nothing(monkeypatch):
    predictions = random_predictions(3, 40)
    whole = compute_scores(predictions, resamples=50)
    monkeypatch.setattr("parfocal.metrics.bootstrap.BLOCK_SIZE", 7 * predictions.probabilities.size)
    assert compute_scores(predictions, resamples=50) == whole


def test_resamples_without_a_class_are_ignored_and_counted():
    truth = np.array([1, 0, 0, 0, 0])
    probabilities = np.stack([1 - truth * 0.9, truth * 0.9], axis=1)
    predictions = LabeledPredictions(("a", "b"), truth, probabilities, tuple("vwxyz"))
    scores = compute_scores(predictions, resamples=4000)
    # A patient of five is not drawn in five draws with chance 0.8^5; the others never with 0.2^5.
    chance = 0.8**5 + 0.2**5
    error = np.sqrt(chance * (1 - chance) / 4000)
    assert scores["auroc_macro"].undefined_resamples / 4000 == pytest.approx(chance, abs=4 * error)
    assert (scores["auroc_macro"].value, scores["auroc_macro"].low) == (1, None)
    assert scores["accuracy"].undefined_resamples == 0


def test_one_patient_has_no_interval():
    predictions = LabeledPredictions(("a", "b"), np.array([0, 1]), np.eye(2), ("p", "p"))
    score = compute_scores(predictions)["auroc_macro"]
    assert (score.value, score.low, score.high) == (1, None, None)
    assert score.reason == "no interval: it needs at least two patients"


def test_the_interval_of_a_mean_is_the_normal_interval():
    values = np.random.default_rng(0).normal(size=400)
    score = mean_with_interval(values, tuple(map(str, range(400))), resamples=4000)
    error = values.std() / np.sqrt(400)
    assert score.value == pytest.approx(values.mean())
    assert score.low == pytest.approx(score.value - 1.96 * error, abs=4 * 0.042 * error)
    assert score.high == pytest.approx(score.value + 1.96 * error, abs=4 * 0.042 * error)


def test_two_thousand_resamples_of_two_hundred_patients_take_under_three_seconds():
    predictions = random_predictions(3, 200)
    start = time.process_time()
    compute_scores(predictions, resamples=2000)
    assert time.process_time() - start < 3
