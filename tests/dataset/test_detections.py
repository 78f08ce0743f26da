"""Detections inside and outside of outlined lesions, after the rule of CAMELYON16."""

import numpy as np
import pytest
import torch

from parfocal.dataset.detections import detect
from parfocal.dataset.outlines import Outlines, Polygon
from parfocal.prediction import Look, Places


def square(x, y, side):
    return Polygon(np.array([[x, y], [x + side, y], [x + side, y + side], [x, y + side]], float))


def look(*patches, order=None):
    """Return a look at patches of 100 px: left edge, upper edge and score of each."""
    boxes = torch.tensor([[x, y, 100.0, 100.0] for x, y, _ in patches], dtype=torch.float64)
    places = Places(boxes, torch.full((len(patches),), 0.5, dtype=torch.float64), order=order)
    scores = torch.tensor([score for _, _, score in patches])
    return Look(torch.arange(len(patches)), scores, places=places)


def test_a_detection_is_in_a_lesion_outside_or_in_one_that_does_not_count():
    # At 1 µm/px: a lesion of 400 µm, and one of 100 µm, which with its margin is below 275 µm.
    lesions = Outlines((square(0, 0, 400), square(2000, 0, 100)))
    found = detect(look((1000, 0, 0.1), (2000, 0, 0.2), (100, 100, 0.4)), lesions, mpp=1.0)
    assert found.lesions == 1
    assert found.hits == (0, -2, -1)
    assert found.confidences == pytest.approx((1.0, 0.5, 0.25))


def test_lesions_that_are_close_are_one():
    apart = Outlines((square(0, 0, 300), square(400, 0, 300)))
    assert detect(look((0, 0, 1.0)), apart, mpp=1.0).lesions == 2
    assert detect(look((0, 0, 1.0)), apart, mpp=0.7).lesions == 1  # 70 µm


def test_of_neighbors_only_the_best_is_kept_and_only_what_was_visited():
    patches = (0, 0, 0.3), (100, 0, 0.5), (100, 100, 0.1), (400, 0, 0.2), (900, 0, 0.6)
    order = torch.tensor([0, 1, 2, 3, -1])
    found = detect(look(*patches, order=order), Outlines(()), mpp=1.0)
    assert found.confidences == pytest.approx((1.0, 0.4))
    assert found.hits == (-1, -1)


def test_without_scores_there_are_no_detections():
    found = detect(look((0, 0, 0.0)), Outlines((square(0, 0, 400),)), mpp=1.0)
    assert (found.lesions, found.hits) == (1, ())
