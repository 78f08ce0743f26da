"""DeLong's interval and test, on the data of their paper and against a plain double loop."""

from dataclasses import replace

import numpy as np
import pytest

from parfocal.metrics import LabeledPredictions, delong_interval, delong_test
from parfocal.metrics.paired import paired_scores

# Albumin, total protein, K-G score and outcome of 43 patients: DeLong, DeLong and Clarke-Pearson,
# Biometrics 1988, as printed in the SAS/STAT User's Guide, PROC LOGISTIC, "Comparing Receiver
# Operating Characteristic Curves".
PATIENTS = """
3.0 5.8 10 0  3.2 6.3 5 1  3.9 6.8 3 1  2.8 4.8 6 0  3.2 5.8 3 1  0.9 4.0 5 0  2.5 5.7 8 0
1.6 5.6 5 1  3.8 5.7 5 1  3.7 6.7 6 1  3.2 5.4 4 1  3.8 6.6 6 1  4.1 6.6 5 1  3.6 5.7 5 1
4.3 7.0 4 1  3.6 6.7 4 0  2.3 4.4 6 1  4.2 7.6 4 0  4.0 6.6 6 0  3.5 5.8 6 1  3.8 6.8 7 1
3.0 4.7 8 0  4.5 7.4 5 1  3.7 7.4 5 1  3.1 6.6 6 1  4.1 8.2 6 1  4.3 7.0 5 1  4.3 6.5 4 1
3.2 5.1 5 1  2.6 4.7 6 1  3.3 6.8 6 0  1.7 4.0 7 0  3.7 6.1 5 1  3.3 6.3 7 1  4.2 7.7 6 1
3.5 6.2 5 1  2.9 5.7 9 0  2.1 4.8 7 1  2.8 6.2 8 0  4.0 7.0 7 1  3.3 5.7 6 1  3.7 6.9 5 1
3.6 6.6 5 1
"""
ALBUMIN, PROTEIN, KG, OUTCOME = (
    np.array([float(word) for word in PATIENTS.split()]).reshape(-1, 4).T
)
FAILED = OUTCOME == 0


def by_loops(scores):
    """Return AUROCs and their covariance from every pair of patients, as the paper writes them."""
    pairs = np.array(
        [[[(x > y) + (x == y) / 2 for y in each[~FAILED]] for x in each[FAILED]] for each in scores]
    )
    v10, v01 = pairs.mean(axis=2), pairs.mean(axis=1)
    variance = np.cov(v10) / FAILED.sum() + np.cov(v01) / (~FAILED).sum()
    return pairs.mean(axis=(1, 2)), variance


def test_the_interval_is_the_printed_one():
    """SAS: K-G Score, area 0.7258, standard error 0.1028, 95% limits 0.5243 and 0.9273."""
    score = delong_interval(FAILED, KG)
    assert score.value == pytest.approx(0.7258, abs=5e-5)
    assert (score.low, score.high) == pytest.approx((0.5243, 0.9273), abs=1e-4)
    assert score.interval == "delong"


def test_intervals_and_tests_are_those_of_a_double_loop():
    scores = np.stack([-ALBUMIN, KG])
    areas, variance = by_loops(scores)
    own = delong_interval(FAILED, -ALBUMIN)
    assert own.value == pytest.approx(areas[0])
    assert own.low == pytest.approx(areas[0] - 1.959964 * np.sqrt(variance[0, 0]))
    test = delong_test(FAILED, *scores)
    error = np.sqrt(variance[0, 0] + variance[1, 1] - 2 * variance[0, 1])
    assert test.difference == pytest.approx(areas[0] - areas[1])
    assert test.z == pytest.approx((areas[0] - areas[1]) / error)
    assert delong_test(FAILED, *scores[::-1]).p == pytest.approx(test.p)


def test_what_has_no_interval_has_the_reason():
    truth = np.array([True, True, False, False])
    perfect = delong_interval(truth, np.array([4.0, 3, 2, 1]))
    assert perfect.text == (
        "1.000 (no interval: all positive patients rank above, or below, all negative ones)"
    )
    one = delong_interval(truth[1:], np.array([1.0, 2, 0]))
    assert one.text == "0.500 (no interval: it needs two positive and two negative patients)"
    assert delong_interval(truth[:2], np.ones(2)).text == "undefined: every patient is positive"
    assert delong_interval(truth[:0], np.ones(0)).text == "undefined: no patient"
    same = delong_test(FAILED, KG, 2 * KG)
    assert (same.difference, same.p) == (0, None)
    assert same.reason == "no test: both scores rank the patients alike"
    assert delong_test(truth[:2], np.ones(2), np.ones(2)).difference is None


def test_a_comparison_tests_patients_against_the_best_model():
    ids = tuple(f"p{n}" for n in range(len(KG)))

    def model(score):
        chance = (score - score.min() + 0.1) / (np.ptp(score) + 0.2)
        rows = np.stack([1 - chance, chance], axis=1)
        return LabeledPredictions(("no", "yes"), FAILED.astype(np.int64), rows, ids)

    given = {"kg": [model(KG)], "albumin": [model(-ALBUMIN), model(-ALBUMIN)]}
    paired = paired_scores(given, "auroc_macro", resamples=10)
    best, other = ("albumin", "kg") if paired["kg"].gap_to_best else ("kg", "albumin")
    assert paired[best].delong is None
    scores = {"kg": KG, "albumin": -ALBUMIN}
    expected = delong_test(FAILED, scores[best], scores[other])
    assert paired[other].delong.p == pytest.approx(expected.p)
    assert paired[other].delong.text == f"DeLong p = {expected.p:.3f}"
    assert delong_test(FAILED, KG, KG).text == ""
    halves = [replace(model(KG), groups=tuple(f"{n}{each}" for each in ids)) for n in range(2)]
    folds = paired_scores({"kg": halves, "albumin": [model(-ALBUMIN)] * 2}, "auroc_macro")
    assert {each.delong for each in folds.values()} == {None}
