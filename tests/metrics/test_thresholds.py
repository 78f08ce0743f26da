"""Thresholds that are chosen by a rule, and the scores of their decisions."""

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, roc_curve

from parfocal.metrics import choose_threshold, exact_interval, threshold_scores
from parfocal.operating_point import ThresholdRule


def items(n=50, seed=0, decimals=8):
    generator = np.random.default_rng(seed)
    truth = generator.random(n) < 0.4
    return truth, np.round(np.clip(generator.normal(0.4 + 0.2 * truth, 0.2), 0, 1), decimals)


@pytest.mark.parametrize("text", ["youden", "sensitivity=0.95", "specificity=0.9", "0.4", "1"])
def test_a_rule_is_parsed_and_printed(text):
    assert str(ThresholdRule.parse(text)) == text
    assert ThresholdRule.parse(f" {text.upper()} ") == ThresholdRule.parse(text)


@pytest.mark.parametrize(
    "text",
    ["", "best", "1.5", "-0.1", "nan", "sensitivity", "sensitivity=95", "f1=0.9", "youden=1"],
)
def test_what_is_no_rule_is_refused(text):
    with pytest.raises(ValueError, match="is not one of: youden, sensitivity"):
        ThresholdRule.parse(text)


@pytest.mark.parametrize("decimals", [8, 1])
def test_the_decisions_are_the_best_of_the_roc_curve(decimals):
    truth, score = items(decimals=decimals)
    false, true, _ = roc_curve(truth, score, drop_intermediate=False)

    def rates(rule):
        scores = threshold_scores(
            truth, score, choose_threshold(truth, score, rule), tuple(map(str, range(50)))
        )
        return scores["sensitivity"].value, scores["specificity"].value

    sensitivity, specificity = rates(ThresholdRule("youden"))
    assert sensitivity + specificity == pytest.approx((true + 1 - false).max())
    sensitivity, specificity = rates(ThresholdRule("sensitivity", 0.9))
    assert sensitivity >= 0.9
    assert specificity == pytest.approx((1 - false)[true >= 0.9].max())
    sensitivity, specificity = rates(ThresholdRule("specificity", 0.9))
    assert specificity >= 0.9
    assert sensitivity == pytest.approx(true[1 - false >= 0.9].max())


def test_a_threshold_lies_between_scores_and_a_given_one_is_kept():
    truth, score = np.array([False, True]), np.array([0.2, 0.6])
    assert choose_threshold(truth, score, ThresholdRule("youden")) == pytest.approx(0.4)
    assert choose_threshold(truth, score, ThresholdRule("value", 0.7)) == 0.7
    everything = choose_threshold(~truth, score, ThresholdRule("sensitivity", 1.0))
    assert everything == pytest.approx(0.1)  # not 0, at which every later slide would be positive
    nothing = choose_threshold(~truth, score, ThresholdRule("specificity", 1.0))
    assert nothing == pytest.approx(0.8)
    certain = choose_threshold(~truth, np.array([0.2, 1.0]), ThresholdRule("specificity", 1.0))
    assert certain > 1


@pytest.mark.parametrize(("value", "name"), [(True, "negative"), (False, "positive")])
def test_a_class_without_items_is_refused(value, name):
    with pytest.raises(ValueError, match=f"there is no {name} slide"):
        choose_threshold(np.full(3, value), np.arange(3) / 3, ThresholdRule("youden"))


def test_the_scores_are_those_of_the_confusion_matrix_with_exact_intervals():
    truth, score = items()
    (tn, fp), (fn, tp) = confusion_matrix(truth, score >= 0.5)
    scores = threshold_scores(truth, score, 0.5, tuple(map(str, range(50))))
    counts = {
        "sensitivity": (tp, tp + fn),
        "specificity": (tn, tn + fp),
        "ppv": (tp, tp + fp),
        "npv": (tn, tn + fn),
    }
    for name, (hits, total) in counts.items():
        assert scores[name].value == pytest.approx(hits / total)
        assert (scores[name].low, scores[name].high) == pytest.approx(
            exact_interval(int(hits), int(total))
        )


def test_the_slides_of_a_patient_are_one_trial():
    truth, score = np.ones(4, dtype=bool), np.array([0.9, 0.8, 0.1, 0.2])
    scores = threshold_scores(truth, score, 0.5, tuple("aabb"))
    assert (scores["sensitivity"].low, scores["sensitivity"].high) == exact_interval(1, 2)
    assert scores["specificity"].text == "undefined: no negative slide"
    everyone = threshold_scores(truth, score, 0.0, tuple("abcd"))
    assert everyone["npv"].text == "undefined: no slide that is predicted negative"
