import numpy as np
import pytest
from sklearn import metrics as sk

from parfocal.metrics import LabeledPredictions, weighted_scores

from .conftest import LABELS, random_predictions


def by_sklearn(predictions):
    truth, predicted, probabilities = (
        predictions.truth,
        predictions.predicted,
        predictions.probabilities,
    )
    one_hot = np.eye(len(predictions.labels))[truth]
    return {
        "accuracy": sk.accuracy_score(truth, predicted),
        "balanced_accuracy": sk.balanced_accuracy_score(truth, predicted),
        "weighted_f1": sk.f1_score(truth, predicted, average="weighted", zero_division=0),
        "quadratic_kappa": sk.cohen_kappa_score(truth, predicted, weights="quadratic"),
        "auroc_macro": sk.roc_auc_score(one_hot, probabilities, average="macro"),
        "auroc_micro": sk.roc_auc_score(one_hot, probabilities, average="micro"),
        "average_precision_macro": sk.average_precision_score(
            one_hot, probabilities, average="macro"
        ),
        "average_precision_micro": sk.average_precision_score(
            one_hot, probabilities, average="micro"
        ),
    }


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("ties", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_every_weighted_score_is_scikit_learns(classes, ties, seed):
    predictions = random_predictions(classes, 60, ties=ties, seed=seed)
    ours = weighted_scores(predictions, np.ones((1, 60)))
    for name, value in by_sklearn(predictions).items():
        assert ours[name][0] == pytest.approx(value, abs=1e-12), name


def test_the_scores_of_a_class_are_scikit_learns():
    predictions = random_predictions(3, 50)
    ours = weighted_scores(predictions, np.ones((1, 50)))
    for c, label in enumerate(LABELS):
        is_class, probabilities = predictions.truth == c, predictions.probabilities[:, c]
        assert ours[f"auroc/{label}"][0] == pytest.approx(sk.roc_auc_score(is_class, probabilities))
        expected = sk.average_precision_score(is_class, probabilities)
        assert ours[f"average_precision/{label}"][0] == pytest.approx(expected)
        assert ours[f"recall/{label}"][0] == np.mean(predictions.predicted[is_class] == c)


def test_a_weight_of_two_is_the_slide_twice():
    predictions = random_predictions(3, 30)
    weights = np.random.default_rng(1).integers(0, 4, size=30)
    twice = np.repeat(np.arange(30), weights)
    repeated = LabeledPredictions(
        LABELS, predictions.truth[twice], predictions.probabilities[twice], ("",) * len(twice)
    )
    weighted = weighted_scores(predictions, weights[None].astype(float))
    for name, value in by_sklearn(repeated).items():
        assert weighted[name][0] == pytest.approx(value, abs=1e-12), name
