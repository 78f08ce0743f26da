"""The rule by which a model stops, on synthetic answers whose thresholds are known."""

import numpy as np
import pytest
import torch

from parfocal.models.stopping import (
    StoppingRule,
    answered,
    calibrate,
    choose_thresholds,
    is_settled,
    slides_needed,
    stopping_round,
)
from parfocal.prediction import Round

# Final class 0 with up to 0.7 of class 1 on the way, final class 1 with up to 0.8 of class 0.
ANSWERS = [
    [(0.4, 0.6), (0.3, 0.7), (0.9, 0.1)],
    [(0.6, 0.4), (0.9, 0.1), (0.95, 0.05)],
    [(0.8, 0.2), (0.2, 0.8), (0.1, 0.9)],
    [(0.4, 0.6), (0.1, 0.9), (0.05, 0.95)],
]
PATCHES = [[10, 20, 30]] * 4


def test_a_threshold_is_the_highest_probability_on_slides_of_another_class():
    # With 2 slides of other classes, 1 / (2 + 1) of new ones exceed the highest.
    assert choose_thresholds(ANSWERS, 1 / 3) == (0.8, 0.7)
    assert choose_thresholds(ANSWERS, 2 / 3) == (0.0, 0.0)  # one of two may exceed it
    assert choose_thresholds(ANSWERS, 0.3) == (1.0, 1.0)  # too few slides to show 30%
    assert choose_thresholds(ANSWERS, 1 / 3, 0.75) == (0.8, 0.75)


def test_the_last_round_does_not_count_as_stopping():
    answers = [[(0.2, 0.8), (0.9, 0.1)], [(0.1, 0.9), (0.4, 0.6)]]
    assert choose_thresholds(answers, 0.5) == (0.0, 0.8)


def test_the_rule_stops_where_the_probability_first_exceeds_the_threshold():
    assert [stopping_round(each, (0.8, 0.7)) for each in ANSWERS] == [2, 1, 1, 1]
    assert not is_settled((0.8, 0.2), (0.8, 0.7))


def test_calibration_reports_what_the_rule_does_on_the_validation_slides():
    rule = calibrate(ANSWERS, PATCHES, ("a", "b"), round_patches=16, max_disagreement=1 / 3)
    assert rule.thresholds == (0.8, 0.7)
    assert rule.slides == {"a": 2, "b": 2}
    assert rule.disagreements == 0
    assert rule.share_patches == (30 + 20 + 20 + 20) / 120
    assert rule.can_stop


def test_as_many_slides_are_needed_as_the_disagreement_asks_for():
    for share, classes in ((0.05, 2), (0.1, 2), (0.05, 3), (0.07, 4)):
        needed = slides_needed(share, classes)
        for count, can_stop in ((needed, True), (needed - 1, False)):
            answers = [[(0.9,) + (0.1,) * (classes - 1)] * 2 for _ in range(count)]
            thresholds = choose_thresholds(answers, share)
            assert all(each < 1 for each in thresholds[1:]) == can_stop


def test_new_slides_disagree_no_more_often_than_promised():
    """Synthetic answers that drift at random; the share of disagreements is that of many draws."""
    generator = np.random.default_rng(0)
    shares = []
    for _ in range(300):
        logits = generator.normal(size=(60, 6)).cumsum(axis=1) * 1.5
        probabilities = 1 / (1 + np.exp(-logits))
        answers = [[(1 - p, p) for p in slide] for slide in probabilities.tolist()]
        thresholds = choose_thresholds(answers[:40], 0.2)
        changed = [
            np.argmax(each[stopping_round(each, thresholds)]) != np.argmax(each[-1])
            for each in answers[40:]
        ]
        shares.append(np.mean(changed))
    error = np.std(shares) / len(shares) ** 0.5
    assert np.mean(shares) <= 0.2 + 4 * error
    assert np.mean(shares) > 0.05  # it does stop


def test_an_answer_settles_only_when_enough_magnifications_were_visited():
    rule = StoppingRule((0.6, 0.6), 16, 0.1, magnifications=2)
    sure = torch.tensor([5.0, 0.0])
    assert rule([Round((9,), sure)]) is None
    assert rule([Round((9,), sure), Round((9, 4), sure)]) is not None


def test_a_rule_is_read_from_json_and_wrong_values_are_refused():
    values = {"thresholds": [0.5, 1], "round_patches": 16, "max_disagreement": 0.1}
    assert StoppingRule.parse(values).thresholds == (0.5, 1.0)
    with pytest.raises(ValueError, match="thresholds"):
        StoppingRule.parse({**values, "thresholds": "all"})


def test_the_class_that_settles_is_that_of_the_threshold():
    answers = [[(0.88, 0.12), (0.97, 0.03)], [(0.95, 0.05), (0.85, 0.15)]]
    assert [answered(rounds[-1], 0.1) for rounds in answers] == [0, 1]
    # The first is of the second class on the way, the second of the first.
    assert choose_thresholds(answers, 0.5, decision=0.1) == (0.95, 0.12)
    assert stopping_round(answers[1], (0.96, 0.12), 0.1) == 1
    rule = StoppingRule((0.9, 0.7), 16, 0.5, decision=0.1)
    early = Round((4,), torch.tensor([0.0, -2.0]))  # 12% of the second class: 0.12 < 0.7
    assert rule([early]) is None
    assert StoppingRule((0.7, 0.7), 16, 0.5)([early]) is not None
    warm = StoppingRule((0.7, 0.7), 16, 0.5, temperature=4.0)  # 62%
    assert warm([early]) is None
