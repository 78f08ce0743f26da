"""Scores of any task in resamples, against plain loops over repeated rows."""

import numpy as np
import pytest

from parfocal.metrics import (
    LabeledPredictions,
    Part,
    RegressionPredictions,
    ResamplableDifference,
    ResamplableNumbers,
    ResamplableParts,
    ResamplableSurvival,
    SurvivalPredictions,
    resampled_scores,
    score_label,
)
from parfocal.metrics.paired import paired_scores

TIME = np.array([2.0, 3.0, 5.0, 7.0, 11.0, np.nan])
EVENT = np.array([True, True, False, True, False, False])
RISK = np.array([0.9, 0.2, 0.4, 0.5, 0.1, 0.3])
PATIENTS = tuple("abcdef")


def survival(risk=RISK):
    return ResamplableSurvival(SurvivalPredictions(np.array(risk), TIME, EVENT, PATIENTS))


def numbers(predicted, truth, groups=PATIENTS):
    given = RegressionPredictions(np.array(predicted, float), np.array(truth, float), groups)
    return ResamplableNumbers(given)


def concordance_in_loops(rows):
    """Return the share of comparable pairs of rows in which the higher risk comes first."""
    right = pairs = 0.0
    for i in rows:
        for j in rows:
            if EVENT[i] and TIME[i] < TIME[j]:
                pairs += 1
                right += 1.0 if RISK[i] > RISK[j] else 0.5 if RISK[i] == RISK[j] else 0.0
    return right / pairs if pairs else np.nan


def test_the_concordance_of_a_resample_is_that_of_the_repeated_rows():
    drawn = [[0, 1, 2, 3, 4], [0, 0, 3, 4, 2], [2, 2, 4, 4, 4], [1, 3, 3, 3, 4]]
    weights = np.array([[rows.count(row) for row in range(6)] for rows in drawn], dtype=float)
    found = survival().weighted(weights)["concordance"]
    assert found == pytest.approx([concordance_in_loops(rows) for rows in drawn], nan_ok=True)


def test_a_resample_without_a_known_row_has_no_score():
    weights = np.array([[0, 0, 0, 0, 0, 5.0], [1, 1, 1, 1, 1, 1.0]])
    found = survival().weighted(weights)["concordance"]
    assert np.isnan(found[0])
    assert not np.isnan(found[1])


def test_the_mean_over_labels_has_the_interval_of_a_bootstrap_in_loops():
    rng = np.random.default_rng(0)
    truth, score = rng.integers(2, size=(2, 12)), rng.random((2, 12))
    groups = tuple(f"p{n:02d}" for n in range(12))
    parts = tuple(
        Part(
            np.arange(12),
            LabeledPredictions(("no", name), t, np.stack([1 - s, s], axis=1), groups),
            {f"auroc/{name}": f"auroc/{name}"},
        )
        for name, t, s in zip("xy", truth, score, strict=True)
    )
    both = ResamplableParts(groups, parts, {"auroc_macro": ("auroc/x", "auroc/y")})
    found = resampled_scores(both, {"auroc_macro": "undefined"}, resamples=300, seed=3)
    score_found = found["auroc_macro"]

    def auroc(t, s):
        more = s[t == 1][:, None] - s[t == 0][None]
        return ((more > 0) + 0.5 * (more == 0)).mean() if 0 < t.sum() < len(t) else np.nan

    draws = np.random.default_rng(3).multinomial(12, np.full(12, 1 / 12), 300)
    values = []
    for counts in draws:
        rows = np.repeat(np.arange(12), counts)
        values.append(np.mean([auroc(truth[k][rows], score[k][rows]) for k in range(2)]))
    expected = np.nanpercentile(values, [2.5, 97.5])
    assert [score_found.low, score_found.high] == pytest.approx(expected.tolist())
    assert score_found.value == pytest.approx(np.mean([auroc(truth[k], score[k]) for k in (0, 1)]))
    assert score_found.undefined_resamples == int(np.isnan(values).sum())


def test_of_an_error_the_lowest_is_the_best_and_the_gap_says_by_how_much():
    truth = [1.0, 2.0, 4.0, 8.0, 3.0, 5.0]
    runs = {
        "near": [numbers([1.5, 2.5, 4.5, 8.5, 3.5, 5.5], truth)],
        "far": [numbers([3.0, 4.0, 6.0, 10.0, 5.0, 7.0], truth)],
    }
    found = paired_scores(runs, "mae", names=("mae", "r2"), resamples=50)
    assert found["near"].gap_to_best is None
    assert found["far"].gap_to_best.value == pytest.approx(1.5)
    assert found["near"].scores["mae"].value == pytest.approx(0.5)
    assert found["far"].delong is None


def test_a_model_without_a_score_is_not_the_best():
    constant = survival(np.full(6, np.nan))
    found = paired_scores(
        {"none": [constant], "some": [survival()]}, "concordance", names=("concordance",)
    )
    assert found["some"].gap_to_best is None


def test_a_difference_is_paired():
    truth = [1.0, 2.0, 4.0, 8.0, 3.0, 5.0]
    far, near = (numbers(np.array(truth) + shift, truth) for shift in (2.0, 0.5))
    found = resampled_scores(ResamplableDifference(far, near), {"mae": ""}, resamples=20)["mae"]
    assert found.value == pytest.approx(1.5)
    assert found.low is None  # the same in every resample


def test_scores_have_names_for_people():
    assert score_label("r2") == "R²"
    assert score_label("concordance") == "concordance (Harrell)"
    assert score_label("auroc/msi") == "AUROC of msi"
    assert score_label("something_new") == "something new"
