from dataclasses import replace

import numpy as np
import pytest

from compare.test_scores import BROKEN, GOOD, POOR, RIGHT
from parfocal.compare import picture
from parfocal.compare.picture import Point, draw_comparison, pareto_front, separate
from parfocal.compare.scores import score_results


def test_the_pareto_front_has_the_points_no_cheaper_one_beats():
    costs = {"d": (4.0, 0.7), "a": (1.0, 0.5), "c": (3.0, 0.9), "b": (1.0, 0.4)}
    points = [Point(name, cost, score, 0, 1) for name, (cost, score) in costs.items()]
    assert [point.name for point in pareto_front(points)] == ["a", "c"]


def test_similar_costs_are_drawn_side_by_side_around_their_middle():
    assert separate([1.0, 8.0, 1.0], 2.0) == pytest.approx([0.5**0.5, 8.0, 2**0.5])
    assert separate([4.0, 1.0], 2.0) == [4.0, 1.0]
    assert separate([1.0], 2.0) == [1.0]


def test_a_very_cheap_model_does_not_push_the_others_together(monkeypatch):
    placed = []
    monkeypatch.setattr(picture, "separate", lambda costs, factor: placed.append(costs) or costs)
    draw_comparison(
        score_results([GOOD, POOR, replace(POOR, name="free", macs=1.0)], "accuracy"), "accuracy"
    )
    assert placed[0] == pytest.approx([2.0, 1.0, 0.002])


def test_an_undefined_score_is_not_drawn():
    one_class = replace(RIGHT, truth=np.zeros(6, dtype=int))
    rows = score_results([replace(GOOD, runs=(one_class,))], "auroc_macro", resamples=10)
    assert np.isnan(rows[0].scores["auroc_macro"].value)
    assert draw_comparison(rows, "auroc_macro")[1:4] == b"PNG"


def test_the_picture_is_a_png():
    assert (
        draw_comparison(score_results([GOOD, POOR, BROKEN], "accuracy", resamples=10), "accuracy")[
            1:4
        ]
        == b"PNG"
    )
