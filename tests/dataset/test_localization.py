import itertools
from contextlib import closing

import numpy as np
import pytest
import torch

from parfocal.bag import Look, Places
from parfocal.dataset.localization import Localization, blind_chance, localize
from parfocal.dataset.outlines import Outlines, Polygon
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


def test_the_mass_is_the_attention_on_patches_that_touch_a_lesion():
    found = localize(look([0.1, 0.4, 0.2, 0.2, 0.1]), LESION)
    assert (found.candidates, found.touching) == (5, 2)
    assert found.mass == pytest.approx(0.6)
    assert found.chance == pytest.approx(0.4)


def test_the_last_look_selects_nothing():
    found = localize(look([0.2] * 5), LESION)
    assert (found.selected, found.hit) == (0, False)


def test_selected_patches_that_touch_are_counted():
    found = localize(look([0.2] * 5, [0, 2, 3]), LESION)
    assert (found.selected, found.selected_touching, found.hit) == (3, 1, True)
    assert found.share == pytest.approx(1 / 3)


def test_a_choice_that_misses_is_no_hit():
    found = localize(look([0.2] * 5, [0, 3]), LESION)
    assert (found.hit, found.share) == (False, 0)


def test_the_chance_of_a_hit_is_that_of_all_choices_counted():
    found = Localization(candidates=7, touching=2, mass=0.5, selected=3, selected_touching=1)
    choices = list(itertools.combinations(range(7), 3))
    hits = sum(0 in choice or 1 in choice for choice in choices)
    assert found.chance_of_hit == pytest.approx(hits / len(choices))


def test_a_choice_of_everything_hits_for_certain():
    assert Localization(5, 1, 0.2, selected=5, selected_touching=1).chance_of_hit == 1


def test_where_no_candidate_touches_chance_is_none_either():
    found = Localization(5, 0, 0.0, selected=2, selected_touching=0)
    assert (found.chance, found.chance_of_hit, found.hit) == (0, 0, False)


def test_squares_of_several_sizes_are_compared_each_by_its_own():
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 20.0, 20.0]])
    places = Places(boxes, torch.tensor([1.0, 2.0]))
    found = localize(Look(torch.arange(2), torch.tensor([0.3, 0.7]), places=places), LESION)
    assert (found.candidates, found.touching) == (2, 1)
    assert found.mass == pytest.approx(0.7)


def squares(*boxes: tuple[float, float, float]) -> Look:
    """A running answer over squares (x, y, side) of no grid."""
    corners = torch.tensor([(x, y, side, side) for x, y, side in boxes], dtype=torch.float64)
    places = Places(corners, corners[:, 2])
    running = torch.linspace(0.1, 0.9, len(boxes))
    return Look(torch.arange(len(boxes)), running, places=places, score_kind="running")


def test_squares_laid_blindly_touch_a_lesion_as_often_as_their_middles_lie_close_to_it():
    half = Outlines((Polygon(np.array([(0, 0), (48, 0), (48, 96), (0, 96), (0, 0)], float)),))
    with closing(source(picture(96, 96))) as pixels:
        chance = blind_chance(squares((0, 0, 24)), half, pixels)
    assert chance == pytest.approx((48 + 12) / 96)


def test_each_square_of_a_running_answer_counts_alike():
    corner = Outlines((Polygon(np.array([(0, 0), (9, 0), (9, 9), (0, 0)], float)),))
    met = localize(squares((0, 0, 8), (50, 50, 8), (70, 0, 8)), corner, blind=0.25)
    assert (met.mass, met.chance) == (pytest.approx(1 / 3), 0.25)
