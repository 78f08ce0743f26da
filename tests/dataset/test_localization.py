import itertools
from contextlib import closing

import numpy as np
import pytest
import torch

from parfocal.dataset.localization import Localization, localize, random_touch_rate
from parfocal.dataset.outlines import Outlines, Polygon
from parfocal.prediction import Look, Places
from sources import picture, source

# Patches of 10 px in a row; the lesion covers half of the second and a sliver of the third.
BOXES = torch.tensor([[10.0 * column, 0.0, 10.0, 10.0] for column in range(5)])
LESION = Outlines((Polygon(np.array([[15.0, 2.0], [20.1, 2.0], [20.1, 8.0], [15.0, 8.0]])),))


def look(attention, selected=None):
    chosen = None if selected is None else torch.tensor(selected)
    rows = torch.arange(len(attention))
    return Look(
        rows, torch.tensor(attention), chosen, places=Places(BOXES[rows], torch.ones(len(rows)))
    )


def test_the_mass_is_the_attention_on_patches_that_overlap_a_lesion():
    localization = localize(look([0.1, 0.4, 0.2, 0.2, 0.1]), LESION)
    assert (localization.candidates, localization.touching) == (5, 2)
    assert localization.mass == pytest.approx(0.6)
    assert localization.chance == pytest.approx(0.4)


def test_the_last_look_selects_nothing():
    localization = localize(look([0.2] * 5), LESION)
    assert (localization.selected, localization.hit) == (0, False)


def test_selected_patches_that_touch_are_counted():
    localization = localize(look([0.2] * 5, [0, 2, 3]), LESION)
    assert (localization.selected, localization.selected_touching, localization.hit) == (3, 1, True)
    assert localization.share == pytest.approx(1 / 3)


def test_a_selection_without_a_touching_patch_is_no_hit():
    localization = localize(look([0.2] * 5, [0, 3]), LESION)
    assert (localization.hit, localization.share) == (False, 0)


def test_the_chance_of_a_hit_is_the_share_of_all_selections_with_a_hit():
    localization = Localization(candidates=7, touching=2, mass=0.5, selected=3, selected_touching=1)
    choices = list(itertools.combinations(range(7), 3))
    hits = sum(0 in choice or 1 in choice for choice in choices)
    assert localization.chance_of_hit == pytest.approx(hits / len(choices))


def test_selecting_every_patch_is_certain_to_hit():
    assert Localization(5, 1, 0.2, selected=5, selected_touching=1).chance_of_hit == 1


def test_without_a_touching_candidate_every_chance_is_zero():
    localization = Localization(5, 0, 0.0, selected=2, selected_touching=0)
    assert (localization.chance, localization.chance_of_hit, localization.hit) == (0, 0, False)


def test_squares_of_different_sizes_are_compared_with_the_lesions():
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 20.0, 20.0]])
    places = Places(boxes, torch.tensor([1.0, 2.0]))
    localization = localize(Look(torch.arange(2), torch.tensor([0.3, 0.7]), places=places), LESION)
    assert (localization.candidates, localization.touching) == (2, 1)
    assert localization.mass == pytest.approx(0.7)


def squares(*boxes: tuple[float, float, float]) -> Look:
    """Return a look with class probabilities at squares (x, y, side) on no grid."""
    corners = torch.tensor([(x, y, side, side) for x, y, side in boxes], dtype=torch.float64)
    places = Places(corners, corners[:, 2])
    running = torch.linspace(0.1, 0.9, len(boxes))
    return Look(torch.arange(len(boxes)), running, places=places, score_kind="class_probability")


def test_the_random_touch_rate_is_the_share_of_centers_close_to_a_lesion():
    half = Outlines((Polygon(np.array([(0, 0), (48, 0), (48, 96), (0, 96), (0, 0)], float)),))
    with closing(source(picture(96, 96))) as pixels:
        chance = random_touch_rate(squares((0, 0, 24)), half, pixels)
    assert chance == pytest.approx((48 + 12) / 96)


def test_class_probabilities_give_every_square_the_same_weight():
    corner = Outlines((Polygon(np.array([(0, 0), (9, 0), (9, 9), (0, 0)], float)),))
    localization = localize(squares((0, 0, 8), (50, 50, 8), (70, 0, 8)), corner, random_rate=0.25)
    assert (localization.mass, localization.chance) == (pytest.approx(1 / 3), 0.25)
