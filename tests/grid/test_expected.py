import numpy as np
import pytest

from parfocal.grid import PatchGrid, expected_patches
from parfocal.slide.tissue import Tissue


def grid_of(columns: int, mpps: tuple[float, ...] = (4, 2, 1)) -> PatchGrid:
    """Return a grid of one row of 256 px patches, all tissue."""
    mask = np.ones((16, 16 * columns), dtype=bool)
    return PatchGrid.over(Tissue(mask, 16.0, (256 * columns, 256), 1.0, (1.0,)), mpps, 64)


def test_k_patches_with_the_mean_number_of_children_are_expected():
    expected = expected_patches(grid_of(8), 2)
    assert expected.patches == (8, 32, 128)
    assert expected.expected == (8, 2 * 4, 2 * 4)
    assert expected.total == 24
    assert expected.nothing_to_skip is None


def test_no_more_patches_are_expected_than_there_are():
    assert expected_patches(grid_of(1), 12).expected == (1, 4, 4 * 4)


def test_there_is_nothing_to_skip_if_all_patches_of_the_lowest_magnification_are_selected():
    assert expected_patches(grid_of(2), 2).nothing_to_skip == (
        "nothing to skip on this slide at 2.5x: it has 2 patches there, and 2 are selected"
    )


@pytest.mark.parametrize(("k", "skips"), [(5, True), (6, False)])
def test_there_is_nothing_to_skip_if_zooming_encodes_as_many_patches(k, skips):
    expected = expected_patches(grid_of(8, (2, 1)), k * 4)  # 32 patches with 4 children each
    assert expected.total == 32 + k * 16
    assert (expected.nothing_to_skip is None) == skips
    if not skips:
        assert expected.nothing_to_skip == (
            "nothing to skip on this slide: zooming into 24 patches is expected to encode 128, and "
            "it has 128 at 10x"
        )


def test_a_single_magnification_does_not_zoom():
    assert expected_patches(grid_of(2, (1,)), 1000).nothing_to_skip is None
