import numpy as np
import pytest

from parfocal.compare.scores import ModelResult, score_results
from parfocal.metrics import LabeledPredictions, exact_interval

LABELS = ("benign", "cancer")
TRUTH = (0, 0, 0, 1, 1, 1)
SECONDS = {"cpu": {"total": 2.0, "read": 0.5, "encode": 1.5, "model": 0.25}}


def predictions(*cancer: float, patients: str = "abcdef") -> LabeledPredictions:
    probabilities = np.array(cancer)
    return LabeledPredictions(
        LABELS,
        np.array(TRUTH),
        np.stack([1 - probabilities, probabilities], axis=1),
        tuple(patients),
    )


RIGHT = predictions(0.1, 0.2, 0.3, 0.7, 0.8, 0.9)
HALF = predictions(0.9, 0.2, 0.3, 0.7, 0.8, 0.1)
CLASSES = {"benign": 3, "cancer": 3}
GOOD = ModelResult("good", (RIGHT,), macs=2e12, patches=500.0, seconds=SECONDS, classes=CLASSES)
POOR = ModelResult("poor", (HALF,), macs=1e12, patches=50.0, failed=1, classes=CLASSES)
BROKEN = ModelResult("broken", reason="it broke")


def test_a_score_is_the_mean_over_runs_with_its_standard_deviation():
    (row,) = score_results([ModelResult("m", (RIGHT, HALF))], "accuracy", resamples=10)
    assert row.scores["accuracy"].value == pytest.approx((1 + 4 / 6) / 2)
    assert row.scores["accuracy"].sd == pytest.approx(abs(1 - 4 / 6) / 2**0.5)


def test_one_run_has_no_standard_deviation():
    (row,) = score_results([GOOD], "accuracy", resamples=10)
    assert row.scores["accuracy"].sd is None


def test_the_interval_equals_a_bootstrap_over_patients_in_plain_loops():
    (row,) = score_results([POOR], "auroc_macro", resamples=4000)
    cancer, truth = HALF.probabilities[:, 1], np.array(TRUTH)
    generator = np.random.default_rng(1)
    drawn = [generator.integers(6, size=6) for _ in range(4000)]
    values = [
        np.mean(cancer[rows][truth[rows] == 1][:, None] > cancer[rows][truth[rows] == 0])
        for rows in drawn
        if 0 < truth[rows].sum() < 6
    ]
    low, high = np.percentile(values, [2.5, 97.5])
    score = row.scores["auroc_macro"]
    assert score.low == pytest.approx(low, abs=1 / 6)
    assert score.high == pytest.approx(high, abs=1e-9)
    assert (score.resamples, score.undefined_resamples > 50) == (4000, True)


def test_the_interval_of_the_accuracy_is_exact():
    (row,) = score_results([POOR], "accuracy", resamples=10)
    accuracy = row.scores["accuracy"]
    assert (accuracy.low, accuracy.high) == exact_interval(4, 6)
    assert accuracy.text == "0.667 (0.223 to 0.957)"


def test_the_gap_to_the_best_model_is_paired_over_patients():
    twin = ModelResult("twin", (RIGHT,))
    best, poor, again = score_results([GOOD, POOR, twin], "accuracy")
    assert best.gap_to_best is None
    assert poor.gap_to_best.value == pytest.approx(2 / 6)
    assert 0 <= poor.gap_to_best.low < poor.gap_to_best.high <= 5 / 6
    assert again.gap_to_best.text == "0.000 (no interval: it is the same in all 2,000 resamples)"


def test_patients_of_several_slides_are_drawn_together():
    one = ModelResult("m", (predictions(0.9, 0.9, 0.9, 0.9, 0.9, 0.9, patients="aaabbb"),))
    (row,) = score_results([one], "accuracy")
    assert (row.scores["weighted_f1"].low, row.scores["weighted_f1"].high) == (0, 1)
    assert (row.scores["accuracy"].low, row.scores["accuracy"].high) == exact_interval(1, 2)


def test_a_run_with_an_undefined_score_is_left_out_of_the_mean():
    benign = LabeledPredictions(
        LABELS, np.zeros(2, dtype=np.int64), np.full((2, 2), 0.5), ("g", "h")
    )
    (row,) = score_results([ModelResult("m", (RIGHT, benign))], "auroc_macro", resamples=50)
    assert row.scores["auroc_macro"].value == 1
    assert row.scores["auroc_macro"].sd is None
