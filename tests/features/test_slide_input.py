"""The places of visited patches are the same for bags and for pixels."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from parfocal.bag import Bag, PixelSource, StoredBag
from parfocal.cost import CostMeter
from parfocal.encoders.encoder import Encoder
from parfocal.features.header import SlideSettings
from parfocal.features.opener import open_input
from parfocal.features.slide_input import BagInput, SlideInput, tissue_reach
from parfocal.grid import GridError, PatchGrid
from parfocal.prediction import Look, Places
from parfocal.slide.slide import slide_from_array


class UnusedBag(StoredBag):
    """A bag that no test reads."""

    def __init__(self) -> None:
        super().__init__([torch.zeros(1, 1)])


@pytest.fixture
def nested() -> PatchGrid:
    """Two patches; the second child of the first, and all children of the second, do not exist."""
    return PatchGrid(
        mpps=(2.0, 1.0),
        patch_size=16,
        slide_size=(64, 32),
        slide_mpp=1.0,
        roots=np.array([[0, 0], [1, 0]]),
        sharpest_patches=3,
        exists=(np.array([True, True]), np.array([True, False, True, True] + [False] * 4)),
    )


def test_looks_of_a_bag_get_places_of_the_existing_patches(nested):
    low = Look(torch.arange(2), torch.tensor([0.9, 0.1]), selected=torch.tensor([0]))
    high = Look(torch.arange(4), torch.tensor([0.5, 0.0, 0.3, 0.2]))
    first, second = BagInput(UnusedBag(), nested, (0, 1), CostMeter()).locate([low, high])
    assert first.places.boxes.tolist() == [[0, 0, 32, 32], [32, 0, 32, 32]]
    assert first.places.mpps.tolist() == [2, 2]
    assert first.places.parents is None
    assert second.rows.tolist() == [0, 2, 3]
    assert second.score.tolist() == pytest.approx([0.5, 0.3, 0.2])
    assert second.places.boxes[:, :2].tolist() == [[0, 0], [16, 0], [16, 16]]
    assert second.places.parents.tolist() == [0, 0, 0]


def test_selected_positions_are_renumbered_to_existing_patches(nested):
    look = Look(torch.arange(4), torch.full((4,), 0.25), torch.tensor([1, 3]))
    (found,) = BagInput(UnusedBag(), nested, (1,), CostMeter()).locate([look])
    assert found.rows[found.selected].tolist() == [3]


def test_the_sharpest_patches_are_unknown_if_the_grid_has_a_higher_magnification(nested):
    assert BagInput(UnusedBag(), nested, (0, 1), CostMeter()).sharpest.patches == 3
    assert BagInput(UnusedBag(), nested, (0,), CostMeter()).sharpest is None


def picture(tissue: int = 240) -> np.ndarray:
    pixels = np.full((256, 512, 3), 245, dtype=np.uint8)
    pixels[:, :tissue] = (200, 90, 150)
    return pixels


def test_a_slide_is_opened_as_a_bag_with_an_encoder_and_as_pixels_without(encoder: Encoder):
    slide, settings = slide_from_array(picture(), mpp=4.0), SlideSettings((1.25, 2.5), 64)
    with open_input(slide, settings, encoder) as bag, open_input(slide, settings, None) as pixels:
        assert isinstance(bag.model_input, Bag)
        assert isinstance(pixels.model_input, PixelSource)
        assert isinstance(bag, SlideInput)
        assert isinstance(pixels, SlideInput)


def test_bags_and_pixels_have_the_same_sharpest_patches(encoder: Encoder):
    slide, settings = slide_from_array(picture(), mpp=4.0), SlideSettings((1.25, 2.5), 64)
    with open_input(slide, settings, encoder) as bag, open_input(slide, settings, None) as pixels:
        assert bag.sharpest.patches == pixels.sharpest.patches == 16
        assert bag.sharpest.mpp == pixels.sharpest.mpp == 4.0


def test_the_sharpest_available_magnification_counts():
    slide, settings = slide_from_array(picture(), mpp=4.0), SlideSettings((1.25, 2.5, 5.0), 64)
    with open_input(slide, settings, None, skip_unavailable_magnifications=True) as pixels:
        assert pixels.sharpest.mpp == 4.0
    refused = pytest.raises(GridError, match=r"5x .* is sharper than the scan")
    with refused, open_input(slide, settings, None):
        pass


def test_the_cells_of_a_model_of_pixels_reach_all_tissue():
    slide, settings = slide_from_array(picture(), mpp=4.0), SlideSettings((1.25, 2.5), 64)
    with open_input(slide, settings, None) as pixels:
        reach = pixels.reach(())
    assert (reach.unreachable, reach.below_min_tissue) == (0, 0)
    assert reach.squares.reachable == tuple((row, 0, 4) for row in range(4))


def test_tissue_between_the_patches_that_can_be_sampled_is_out_of_reach():
    slide, settings = slide_from_array(picture(), mpp=4.0), SlideSettings((2.5,), 64)
    boxes = torch.tensor([[0.0, 0.0, 64.0, 256.0], [400.0, 0.0, 64.0, 64.0]])
    places = Places(boxes, torch.full((2,), 4.0))
    sampled = Look(
        torch.arange(2),
        torch.full((2,), 0.5),
        places=places,
        score_kind="sampling_probability",
    )
    with open_input(slide, settings, None) as pixels:
        reach = tissue_reach(pixels, [sampled])
        anywhere = tissue_reach(pixels, [replace(sampled, score_kind="uniform")])
    assert reach.unreachable == pytest.approx(176 / 240, abs=0.02)
    assert reach.squares.reachable == tuple((row, 0, 1) for row in range(4))
    assert reach.squares.out_of_reach == tuple((row, 1, 3) for row in range(4))
    assert anywhere.unreachable == 0


def test_the_reach_of_a_bag_is_that_of_its_grid(encoder: Encoder, nested):
    slide = slide_from_array(picture(), mpp=4.0)
    settings = SlideSettings((1.25, 2.5), 64)
    with open_input(slide, settings, encoder) as bag:
        assert tissue_reach(bag, ()) == bag.grid.reach
        assert bag.unreachable == (0, 0)
    unknown = BagInput(UnusedBag(), nested, (0, 1), CostMeter())
    assert (unknown.reach, unknown.unreachable) == (None, None)
