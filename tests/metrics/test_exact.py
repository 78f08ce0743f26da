"""Exact intervals of proportions."""

from itertools import count

import numpy as np
import pytest
from scipy.stats import binom

from parfocal.metrics import (
    LabeledPredictions,
    Score,
    compute_scores,
    exact_interval,
    interval_notes,
    proportion_with_interval,
    small_classes,
)


@pytest.mark.parametrize(
    ("successes", "trials", "interval"),
    [
        (81, 263, (0.2527, 0.3676)),
        (15, 148, (0.0578, 0.1617)),
        (0, 20, (0.0000, 0.1684)),
        (1, 29, (0.0009, 0.1776)),
    ],
)
def test_the_intervals_are_those_that_newcombe_printed(successes, trials, interval):
    """Newcombe, "Two-sided confidence intervals for the single proportion", 1998, table I."""
    assert exact_interval(successes, trials) == pytest.approx(interval, abs=5e-5)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.5, 0.97])
def test_at_least_95_of_100_intervals_hold_the_true_share(share):
    trials = 25
    covered = sum(
        binom.pmf(successes, trials, share)
        for successes in range(trials + 1)
        if exact_interval(successes, trials)[0] <= share <= exact_interval(successes, trials)[1]
    )
    assert covered >= 0.95


def test_slides_of_one_patient_are_one_trial():
    values, patients = np.array([1.0, 1, 1, 1, 0, 0, 1, 1]), tuple("aabbccdd")
    score = proportion_with_interval(values, patients)
    assert score.value == 0.75
    assert (score.low, score.high) == exact_interval(3, 4)
    assert score.interval == "clopper-pearson"


def perfect(per_class: int) -> LabeledPredictions:
    truth = np.repeat([0, 1], per_class)
    identity = count()
    return LabeledPredictions(
        ("a", "b"), truth, np.eye(2)[truth], tuple(str(next(identity)) for _ in truth)
    )


def test_a_perfect_score_of_two_slides_does_not_look_certain():
    scores = compute_scores(perfect(1))
    assert scores["accuracy"].text == "1.000 (0.158 to 1.000)"
    assert scores["recall/a"].text == "1.000 (0.025 to 1.000)"
    auroc = scores["auroc_macro"]
    assert (auroc.value, auroc.low, auroc.high, auroc.resamples) == (1, None, None, 2000)
    defined = 2000 - auroc.undefined_resamples
    assert 900 < defined < 1100  # both slides are drawn with chance 1/2
    assert auroc.text == (
        f"1.000 (no interval: it is the same in all {defined:,} resamples in which it is defined)"
    )


def test_the_notes_on_intervals_are_said_once():
    named = [
        ("AUROC", compute_scores(perfect(12))["auroc_macro"]),
        ("accuracy", Score(0.5, 0.1, 1.0)),
    ]
    assert [score.short for _, score in named] == ["1.000 (no interval)", "0.500 (0.100 to 1.000)"]
    named += [("kappa", named[0][1]), ("F1", Score(0.8, 0.7, 0.9, 20, resamples=2000))]
    named += [("R²", Score(None, reason="undefined: no known value"))]
    assert [score.short for _, score in named[3:]] == ["0.800 (0.700 to 0.900)", "undefined"]
    assert interval_notes(named) == [
        "No interval (it is the same in all 2,000 resamples): AUROC, kappa.",
        "Undefined (no known value): R².",
        "Resamples in which a score is defined (others are ignored): F1 1,980 of 2,000.",
    ]


def test_every_score_has_the_number_of_slides_of_each_class():
    scores = compute_scores(perfect(3), resamples=5)
    assert scores["auroc_macro"].n == scores["accuracy"].n == {"a": 3, "b": 3}
    assert scores["recall/a"].n == {"a": 3}
    assert scores["auroc/a"].n == {"a": 3, "others": 3}


def test_undefined_resamples_are_counted_in_the_text():
    truth = np.array([0, 0, 0, 1, 1])
    chance = np.array([0.1, 0.4, 0.6, 0.5, 0.9])
    predictions = LabeledPredictions(
        ("a", "b"), truth, np.stack([1 - chance, chance], axis=1), tuple("vwxyz")
    )
    score = compute_scores(predictions)["auroc_macro"]
    defined = 2000 - score.undefined_resamples
    assert score.text.endswith(f"; {defined:,} of 2,000 resamples)")


def test_classes_of_under_ten_patients_are_named():
    assert small_classes(perfect(10)) is None
    assert small_classes(perfect(9)) == (
        "fewer than 10 patients of a class (a 9, b 9): scores and intervals are rough"
    )
    several = perfect(20)
    one_patient = tuple(
        "one" if truth else group
        for truth, group in zip(several.truth, several.groups, strict=True)
    )
    few = small_classes(
        LabeledPredictions(several.labels, several.truth, several.probabilities, one_patient)
    )
    assert few is not None
    assert "(b 1)" in few
