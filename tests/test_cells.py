import pytest
import torch

from parfocal.cells import center_cells, lay_cells, octaves
from parfocal.grid import GridError


def shapes(size: tuple[int, int], magnifications: tuple[float, ...], scan: float) -> list:
    cells = lay_cells(size, 10 / scan, magnifications=magnifications, patch_size=299)
    return [each.shape for each in cells.maps]


def test_map_shapes_are_the_published_ones():
    """Rows and columns for images of BACH and TCGA-PRAD."""
    assert shapes((2048, 1536), (5, 10, 20), 20) == [(2, 2), (3, 4), (6, 7)]
    assert shapes((2000, 2000), (2.5, 5, 10), 10) == [(2, 2), (4, 4), (7, 7)]


@pytest.mark.parametrize("size", [(2048, 1536), (2000, 2000), (299, 299), (300, 1201)])
def test_patches_are_whole_and_cover_the_image(size):
    cells = lay_cells(size, 1.0, magnifications=(10.0,), patch_size=299)
    covered = torch.zeros(size[::-1], dtype=torch.bool)
    for x, y, width, height in cells.boxes.int().tolist():
        assert x >= 0
        assert y >= 0
        assert x + width <= size[0]
        assert y + height <= size[1]
        covered[y : y + height, x : x + width] = True
    assert covered.all()


def test_cells_are_ordered_by_magnification_then_row_by_row():
    cells = lay_cells((400, 200), 1.0, magnifications=(5, 10), patch_size=100)
    assert cells.boxes.tolist() == [
        [0, 0, 200, 200],
        [200, 0, 200, 200],
        *([x, y, 100, 100] for y in (0, 100) for x in (0, 100, 200, 300)),
    ]
    assert cells.steps.tolist() == [0] * 2 + [1] * 8
    assert cells.mpps.tolist() == [2] * 2 + [1] * 8


def test_a_magnification_close_to_that_of_the_scan_is_read_at_that_of_the_scan():
    cells = lay_cells((400, 400), 0.245, magnifications=(40.0,), patch_size=100)
    assert cells.maps[0].mpp == 0.245
    assert cells.maps[0].shape == (4, 4)


def test_a_magnification_higher_than_that_of_the_scan_is_an_error():
    with pytest.raises(GridError, match=r"20x .* is sharper than the scan, which is 10x"):
        lay_cells((400, 400), 1.0, magnifications=(10, 20), patch_size=100)


def test_an_image_smaller_than_a_patch_is_an_error():
    with pytest.raises(GridError, match=r"the image is 200 x 75 px at 2\.5x, smaller than one"):
        lay_cells((800, 300), 1.0, magnifications=(2.5, 10), patch_size=100)


def test_patches_are_centered_on_the_cells_of_a_map_and_stay_inside_the_image():
    cells = center_cells((400, 200), 1.0, magnification=10, patch_size=60, shape=(2, 4))
    assert cells.shape == (2, 4)
    assert cells.boxes[:4, 0].tolist() == [20, 120, 220, 320]
    assert cells.boxes[::4, 1].tolist() == [20, 120]
    dense = center_cells((400, 200), 1.0, magnification=10, patch_size=60, shape=(20, 40)).boxes
    assert dense[:, :2].min() == 0
    assert (dense[:, :2] + 60).amax(dim=0).tolist() == [400, 200]


def test_unavailable_magnifications_can_be_skipped():
    cells = lay_cells(
        (800, 300),
        1.0,
        magnifications=(2.5, 5, 10, 20),
        patch_size=100,
        skip_unavailable_magnifications=True,
    )
    assert [(each.step, each.mpp) for each in cells.maps] == [(1, 2.0), (2, 1.0)]


def test_an_image_without_any_available_magnification_is_an_error():
    with pytest.raises(GridError, match="smaller than one patch of 500 px"):
        lay_cells(
            (300, 300),
            1.0,
            magnifications=(5, 10),
            patch_size=500,
            skip_unavailable_magnifications=True,
        )


def test_a_range_of_magnifications_halves_from_the_highest_down():
    assert octaves(1.25, 40) == (1.25, 2.5, 5, 10, 20, 40)
    assert octaves(3, 20) == (5, 10, 20)
    assert octaves(10, 10) == (10,)


@pytest.mark.parametrize(("lowest", "highest"), [(20, 5), (0, 5)])
def test_an_empty_range_of_magnifications_is_an_error(lowest, highest):
    message = r"is not a range of magnifications; write the lowest first, .* 2\.5-20"
    with pytest.raises(ValueError, match=message):
        octaves(lowest, highest)
