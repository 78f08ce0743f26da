"""The attention of several models at the lesions of a slide."""

import pytest
import torch

from parfocal.dataset.localization import localize
from parfocal.dataset.outlines import Outlines, Polygon
from parfocal.evaluate.mean_looks import mean_looks
from parfocal.prediction import Look, Places

SIDE = 10.0


def look(rows, scores, selected=None, order=None, kind="attention"):
    boxes = torch.tensor([[row * SIDE, 0, SIDE, SIDE] for row in rows])
    places = Places(boxes, torch.ones(len(rows)), order=order)
    chosen = None if selected is None else torch.tensor(selected)
    return Look(torch.tensor(rows), torch.tensor(scores), chosen, places=places, score_kind=kind)


def test_the_score_of_a_patch_is_the_mean_over_the_models():
    one = look([0, 1, 2], [0.5, 0.3, 0.2], [0, 1]), look([4, 7], [0.9, 0.1])
    two = look([0, 1, 2], [0.1, 0.1, 0.8], [2]), look([7, 9], [0.4, 0.6])
    first, last = mean_looks([one, two])
    assert first.rows.tolist() == [0, 1, 2]
    assert first.score.tolist() == pytest.approx([0.3, 0.2, 0.5])
    assert first.selected.tolist() == [0, 1, 2]
    assert last.rows.tolist() == [4, 7, 9]
    assert last.score.tolist() == pytest.approx([0.45, 0.25, 0.3])
    assert last.selected is None
    assert last.places.boxes[:, 0].tolist() == [40, 70, 90]


def test_a_model_that_stops_early_has_no_attention_further_on():
    whole = look([0, 1], [0.5, 0.5], [0]), look([4], [1.0])
    early = (look([0, 1], [1.0, 0.0], [0]),)
    assert mean_looks([whole, early])[1].score.tolist() == [0.5]


def test_a_candidate_is_visited_if_any_model_visits_it():
    order = torch.tensor([-1, 0, -1]), torch.tensor([0, -1, -1])
    kind = "sampling_probability"
    given = [(look([0, 1, 2], [0.2, 0.3, 0.5], [1], each, kind),) for each in order]
    (joined,) = mean_looks(given)
    assert (joined.places.order >= 0).tolist() == [True, True, False]
    assert joined.score_kind == kind


def test_squares_of_any_place_are_not_joined():
    squares = (look([0, 1], [0.5, 0.5], kind="uniform"),)
    assert mean_looks([squares, squares]) is None


def test_the_mean_is_compared_with_the_lesion():
    corners = torch.tensor([[22.0, 2.0], [28.0, 2.0], [28.0, 8.0], [22.0, 8.0]]).numpy()
    lesion = Outlines((Polygon(corners),))
    one, two = look([0, 2], [0.5, 0.5], [1]), look([0, 2], [1.0, 0.0], [0])
    (joined,) = mean_looks([(one,), (two,)])
    found = localize(joined, lesion)
    assert (found.mass, found.touching, found.hit) == (pytest.approx(0.25), 1, True)
