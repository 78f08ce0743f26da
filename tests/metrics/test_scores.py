from dataclasses import replace

import numpy as np
import pytest
from sklearn import metrics as sk

from parfocal.metrics import (
    METRICS,
    LabeledPredictions,
    auroc_by_stratum,
    compute_scores,
    point_scores,
    weighted_scores,
)

from .conftest import LABELS, random_predictions


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("ties", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_the_values_equal_the_scores_with_all_weights_one(classes, ties, seed):
    predictions = random_predictions(classes, 60, ties=ties, seed=seed)
    values, weighted = point_scores(predictions), weighted_scores(predictions, np.ones((1, 60)))
    assert list(values) == list(weighted)
    assert values.keys() >= METRICS.keys()
    for name in ("accuracy", "balanced_accuracy", "weighted_f1"):
        assert values[name] == weighted[name][0]
    for name, value in values.items():
        assert value == pytest.approx(weighted[name][0], abs=1e-14), name


def test_a_perfect_ranking_has_an_average_precision_of_exactly_one():
    truth = np.arange(22) % 2
    probabilities = np.random.default_rng(0).uniform(0.6, 1, (22, 1))
    probabilities = np.where(np.eye(2)[truth] == 1, probabilities, 1 - probabilities)
    perfect = LabeledPredictions(LABELS[:2], truth, probabilities, tuple(map(str, range(22))))
    scores = compute_scores(perfect, resamples=20)
    assert {score.value for score in scores.values()} == {1}


def test_scores_that_compare_classes_are_undefined_with_a_single_class():
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]])
    one = compute_scores(
        LabeledPredictions(
            ("benign", "cancer"), np.array([1, 1, 1]), probabilities, ("a", "b", "c")
        )
    )
    for name in ("balanced_accuracy", "auroc_macro", "average_precision_macro", "recall/benign"):
        assert (one[name].value, one[name].low) == (None, None)
        assert one[name].reason == "undefined: no slide of class benign"
    for name in ("quadratic_kappa", "auroc_micro", "average_precision_micro", "auroc/cancer"):
        assert one[name].value is None
        assert one[name].reason == "undefined: every slide is of class cancer"
    assert one["accuracy"].value == one["recall/cancer"].value == pytest.approx(2 / 3)


def test_a_class_without_slides_leaves_the_averages_over_classes_undefined():
    predictions = random_predictions(2, 20)
    third = np.zeros((20, 1))
    three = LabeledPredictions(
        LABELS, predictions.truth, np.hstack([predictions.probabilities, third]), predictions.groups
    )
    scores = compute_scores(three, resamples=20)
    assert scores["auroc_macro"].reason == "undefined: no slide of class invasive"
    assert scores["auroc/benign"].value is not None
    assert scores["quadratic_kappa"].value is not None


def test_no_predictions_cannot_be_scored():
    nothing = LabeledPredictions(("a", "b"), np.empty(0, dtype=np.int64), np.empty((0, 2)), ())
    with pytest.raises(ValueError, match="no predictions to score"):
        compute_scores(nothing)


def predictions_with_strata():
    """Return predictions of two classes, and the strata of the second."""
    predictions = random_predictions(2, 80)
    stages = ("macro", "micro", "itc")
    strata = tuple(stages[n % 3] if truth else None for n, truth in enumerate(predictions.truth))
    return predictions, strata


def test_the_auroc_of_a_stratum_against_the_negatives_is_scikit_learns():
    predictions, strata = predictions_with_strata()
    scores = auroc_by_stratum(predictions, strata, resamples=2)
    assert list(scores)[-2:] == ["macro + micro", "all"]
    for name, (n, score) in scores.items():
        wanted = ("macro", "micro", "itc") if name == "all" else name.split(" + ")
        member = np.array([stratum in wanted for stratum in strata])
        counted = member | (predictions.truth == 0)
        expected = sk.roc_auc_score(member[counted], predictions.probabilities[counted, 1])
        assert score.value == pytest.approx(expected), name
        assert n == member.sum()


def test_all_strata_together_have_the_score_of_their_class():
    predictions, strata = predictions_with_strata()
    _, together = auroc_by_stratum(predictions, strata, resamples=50)["all"]
    own = compute_scores(predictions, resamples=50)[f"auroc/{LABELS[1]}"]
    assert replace(together, n=None) == replace(own, n=None)
    assert together.n == {"positive": own.n[LABELS[1]], "negative": own.n["others"]}


def test_a_slide_marked_negative_or_none_is_one():
    predictions, strata = predictions_with_strata()
    named = tuple(stratum or ("negative", "None")[n % 2] for n, stratum in enumerate(strata))
    assert auroc_by_stratum(predictions, named) == auroc_by_stratum(predictions, strata)


@pytest.mark.parametrize("strata", ["center", None])
def test_without_negatives_with_a_label_of_their_own_there_are_no_strata(strata):
    predictions = random_predictions(2, 20)
    assert auroc_by_stratum(predictions, (strata,) * 20) == {}
