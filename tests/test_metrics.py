import time

import numpy as np
import pytest
from sklearn import metrics as sk

from parfocal.metrics import (
    Answers,
    by_patient,
    confusion,
    mean_score,
    scores,
    strata_scores,
    weighted_scores,
)

LABELS = ("benign", "in situ", "invasive")


def random_answers(classes, slides, *, patients=None, ties=True, seed=0):
    """Answers that are a little right, with many equal probabilities."""
    generator = np.random.default_rng(seed)
    truth = np.concatenate([np.arange(classes), generator.integers(classes, size=slides - classes)])
    raw = generator.random((slides, classes)) + 0.5 * np.eye(classes)[truth]
    if ties:
        raw = np.round(raw * 4) + 1
    groups = [f"p{i % (patients or slides)}" for i in range(slides)]
    return Answers(LABELS[:classes], truth, raw / raw.sum(axis=1, keepdims=True), tuple(groups))


def by_sklearn(answers):
    truth, predicted, given = answers.truth, answers.predicted, answers.probabilities
    one_hot = np.eye(len(answers.labels))[truth]
    return {
        "accuracy": sk.accuracy_score(truth, predicted),
        "balanced_accuracy": sk.balanced_accuracy_score(truth, predicted),
        "weighted_f1": sk.f1_score(truth, predicted, average="weighted", zero_division=0),
        "quadratic_kappa": sk.cohen_kappa_score(truth, predicted, weights="quadratic"),
        "auroc_macro": sk.roc_auc_score(one_hot, given, average="macro"),
        "auroc_micro": sk.roc_auc_score(one_hot, given, average="micro"),
        "average_precision_macro": sk.average_precision_score(one_hot, given, average="macro"),
        "average_precision_micro": sk.average_precision_score(one_hot, given, average="micro"),
    }


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("ties", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_every_score_is_scikit_learns(classes, ties, seed):
    answers = random_answers(classes, 60, ties=ties, seed=seed)
    ours = scores(answers, resamples=2)
    for name, value in by_sklearn(answers).items():
        assert ours[name].value == pytest.approx(value, abs=1e-12), name


def test_the_scores_of_a_class_are_scikit_learns():
    answers = random_answers(3, 50)
    ours = scores(answers, resamples=2)
    for c, label in enumerate(LABELS):
        is_class, given = answers.truth == c, answers.probabilities[:, c]
        assert ours[f"auroc/{label}"].value == pytest.approx(sk.roc_auc_score(is_class, given))
        expected = sk.average_precision_score(is_class, given)
        assert ours[f"average_precision/{label}"].value == pytest.approx(expected)
        assert ours[f"recall/{label}"].value == np.mean(answers.predicted[is_class] == c)


def test_a_weight_of_two_is_the_slide_twice():
    answers = random_answers(3, 30)
    weights = np.random.default_rng(1).integers(0, 4, size=30)
    twice = np.repeat(np.arange(30), weights)
    repeated = Answers(
        LABELS, answers.truth[twice], answers.probabilities[twice], ("",) * len(twice)
    )
    weighted = weighted_scores(answers, weights[None].astype(float))
    for name, value in by_sklearn(repeated).items():
        assert weighted[name][0] == pytest.approx(value, abs=1e-12), name


def test_the_confusion_matrix_has_the_truth_in_rows():
    given = np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]])
    answers = Answers(("benign", "cancer"), np.array([0, 0, 1]), given, ("a", "b", "c"))
    assert confusion(answers).tolist() == [[1, 1], [0, 1]]


def test_of_equal_probabilities_the_first_class_is_predicted():
    answers = Answers(("a", "b"), np.array([1]), np.array([[0.5, 0.5]]), ("p",))
    assert answers.predicted.tolist() == [0]


def test_the_interval_of_accuracy_is_the_binomials():
    answers = random_answers(2, 400, ties=False)
    accuracy = scores(answers, resamples=4000)["accuracy"]
    deviation = np.sqrt(accuracy.value * (1 - accuracy.value) / 400)
    # A 2.5% quantile of 4000 draws has itself a standard error of about 0.042 deviations, and
    # accuracy comes in steps of 1/400.
    margin = 4 * 0.042 * deviation + 1 / 400
    assert accuracy.low == pytest.approx(accuracy.value - 1.96 * deviation, abs=margin)
    assert accuracy.high == pytest.approx(accuracy.value + 1.96 * deviation, abs=margin)


def test_the_interval_of_auroc_covers_the_true_one():
    truth, covered, trials = np.repeat([0, 1], 40), 0, 200
    exact = 0.76025  # P(X > Y) = Phi(1 / sqrt 2) for normals one deviation apart
    generator = np.random.default_rng(0)
    for _ in range(trials):
        logit = generator.normal(truth.astype(float))
        given = np.stack([1 / (1 + np.exp(logit)), 1 / (1 + np.exp(-logit))], axis=1)
        answers = Answers(("a", "b"), truth, given, tuple(map(str, range(80))))
        auroc = scores(answers, resamples=300)["auroc_macro"]
        covered += auroc.low <= exact <= auroc.high
    # Four standard errors of a count of 200 at 95%, and 2% for the bootstrap's own bias.
    assert covered / trials == pytest.approx(0.95, abs=4 * np.sqrt(0.95 * 0.05 / trials) + 0.02)


def test_a_patients_slides_are_drawn_together():
    """Ten slides of one patient tell as much as one, so the interval is as wide."""
    alone = random_answers(2, 40, ties=False)
    tenfold = Answers(
        alone.labels,
        np.repeat(alone.truth, 10),
        np.repeat(alone.probabilities, 10, axis=0),
        tuple(np.repeat(alone.groups, 10).tolist()),
    )
    assert scores(tenfold)["auroc_macro"] == scores(alone)["auroc_macro"]


def test_same_seed_same_interval():
    answers = random_answers(3, 40)
    assert scores(answers, seed=0) == scores(answers, seed=0)
    assert scores(answers, seed=0)["auroc_macro"] != scores(answers, seed=1)["auroc_macro"]


def test_drawing_in_blocks_changes_nothing(monkeypatch):
    answers = random_answers(3, 40)
    whole = scores(answers, resamples=50)
    monkeypatch.setattr("parfocal.metrics.BLOCK", 7 * answers.probabilities.size)
    assert scores(answers, resamples=50) == whole


def test_with_one_class_only_what_compares_classes_is_not_defined():
    given = np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]])
    one = scores(Answers(("benign", "cancer"), np.array([1, 1, 1]), given, ("a", "b", "c")))
    for name in ("balanced_accuracy", "auroc_macro", "average_precision_macro", "recall/benign"):
        assert (one[name].value, one[name].low) == (None, None)
        assert one[name].reason == "not defined: none here is benign"
    for name in ("quadratic_kappa", "auroc_micro", "average_precision_micro", "auroc/cancer"):
        assert one[name].value is None
        assert one[name].reason == "not defined: all here are cancer"
    assert one["accuracy"].value == one["recall/cancer"].value == pytest.approx(2 / 3)


def test_a_class_without_slides_leaves_the_averages_over_classes_undefined():
    answers = random_answers(2, 20)
    third = np.zeros((20, 1))
    three = Answers(
        LABELS, answers.truth, np.hstack([answers.probabilities, third]), answers.groups
    )
    found = scores(three, resamples=20)
    assert found["auroc_macro"].reason == "not defined: none here is invasive"
    assert found["auroc/benign"].value is not None
    assert found["quadratic_kappa"].value is not None


def test_resamples_that_miss_a_class_are_left_out_and_counted():
    truth = np.array([1, 0, 0, 0, 0])
    given = np.stack([1 - truth * 0.9, truth * 0.9], axis=1)
    answers = Answers(("a", "b"), truth, given, tuple("vwxyz"))
    found = scores(answers, resamples=4000)
    # A patient of five is not drawn in five draws with chance 0.8^5; the others never with 0.2^5.
    chance = 0.8**5 + 0.2**5
    error = np.sqrt(chance * (1 - chance) / 4000)
    assert found["auroc_macro"].left_out / 4000 == pytest.approx(chance, abs=4 * error)
    assert (found["auroc_macro"].value, found["auroc_macro"].low) == (1, 1)
    assert found["accuracy"].left_out == 0


def test_one_patient_has_no_interval():
    answers = Answers(("a", "b"), np.array([0, 1]), np.eye(2), ("p", "p"))
    found = scores(answers)["auroc_macro"]
    assert (found.value, found.low, found.high) == (1, None, None)
    assert found.reason == "no interval: it needs two patients"


def test_a_patients_score_is_the_mean_of_its_slides():
    given = np.array([[0.9, 0.1], [0.3, 0.7], [0.2, 0.8]])
    slides = Answers(("a", "b"), np.array([1, 0, 1]), given, ("007", "7", "007"))
    patients = by_patient(slides)
    assert patients.groups == ("007", "7")
    assert patients.truth.tolist() == [1, 0]
    assert patients.probabilities == pytest.approx(np.array([[0.55, 0.45], [0.3, 0.7]]))


def test_a_patient_of_two_labels_has_none():
    slides = Answers(("benign", "cancer"), np.array([1, 0, 1]), np.eye(2)[[1, 0, 1]], tuple("xxy"))
    message = r"1 of 2 patients have slides of different labels, as x \(benign, cancer\)"
    with pytest.raises(ValueError, match=message):
        by_patient(slides)


def test_no_answer_cannot_be_scored():
    nothing = Answers(("a", "b"), np.empty(0, dtype=np.int64), np.empty((0, 2)), ())
    with pytest.raises(ValueError, match="there is no answer to score"):
        scores(nothing)


def test_two_thousand_resamples_of_two_hundred_patients_take_a_moment():
    answers = random_answers(3, 200)
    start = time.process_time()
    scores(answers, resamples=2000)
    assert time.process_time() - start < 3


def test_the_interval_of_a_mean_is_the_normal_one():
    values = np.random.default_rng(0).normal(size=400)
    found = mean_score(values, tuple(map(str, range(400))), resamples=4000)
    error = values.std() / np.sqrt(400)
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(found.value - 1.96 * error, abs=4 * 0.042 * error)
    assert found.high == pytest.approx(found.value + 1.96 * error, abs=4 * 0.042 * error)


def strata_answers():
    """Two classes, the second in strata."""
    answers = random_answers(2, 80)
    stages = ("macro", "micro", "itc")
    strata = tuple(stages[n % 3] if truth else None for n, truth in enumerate(answers.truth))
    return answers, strata


def test_a_stratum_is_told_from_the_negatives_as_scikit_learn_says():
    answers, strata = strata_answers()
    found = strata_scores(answers, strata, resamples=2)
    assert list(found)[-2:] == ["macro + micro", "all"]
    for name, (n, score) in found.items():
        wanted = ("macro", "micro", "itc") if name == "all" else name.split(" + ")
        member = np.array([stratum in wanted for stratum in strata])
        counted = member | (answers.truth == 0)
        expected = sk.roc_auc_score(member[counted], answers.probabilities[counted, 1])
        assert score.value == pytest.approx(expected), name
        assert n == member.sum()


def test_all_strata_together_have_the_score_of_their_class():
    answers, strata = strata_answers()
    _, together = strata_scores(answers, strata, resamples=50)["all"]
    assert together == scores(answers, resamples=50)[f"auroc/{LABELS[1]}"]


def test_a_slide_marked_negative_or_none_is_one():
    answers, strata = strata_answers()
    named = tuple(stratum or ("negative", "None")[n % 2] for n, stratum in enumerate(strata))
    assert strata_scores(answers, named) == strata_scores(answers, strata)


@pytest.mark.parametrize("strata", ["center", None])
def test_without_negatives_of_a_label_of_their_own_there_are_no_strata(strata):
    answers = random_answers(2, 20)
    assert strata_scores(answers, (strata,) * 20) == {}
